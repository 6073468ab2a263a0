"""Jobs that are useful as they are: `object.copy` and `object.checksum`."""

"""Object stores: files, S3, and HTTP(S) for reading. Each keeps the port in `contracts.claims`."""

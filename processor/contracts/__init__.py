"""Bytes to model and back: Avro, headers, claims; and the files that declare schemas and topics."""

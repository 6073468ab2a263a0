"""The local stack: real Kafka, schema registry, S3 and PostgreSQL from packages."""

"""What is made from the code for docs/: `python -m tests.reference` writes it, a test compares.

docs/metrics.md has the table of metrics between two marks; docs/processor.toml is made as a whole.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from processor.adapters.metric_catalogue import CATALOGUE, Definition
from processor.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
METRICS = DOCS / "metrics.md"
TEMPLATE = DOCS / "processor.toml"
BEGIN = "<!-- Made by `make reference` from processor/adapters/metric_catalogue.py. -->\n"
END = "<!-- end -->\n"

INTRO = """\
# Every setting of processor, at its default. Take the `#` off a line to change it.
# Made by `make reference` from processor/settings.py and docs/configuration.md, which tells more.
# `processor config check --file FILE` tells every fault of a file, and connects to nothing.
"""
KAFKA = """\
# Any client setting of librdkafka; docs/configuration.md lists those that would break the promise.
# Passwords need not stand here: PROCESSOR_KAFKA_SASL_PASSWORD_FILE=/run/secrets/kafka is read, too.
[kafka]
"bootstrap.servers" = "127.0.0.1:9092"
#"security.protocol" = "SASL_SSL"
#"sasl.mechanism" = "SCRAM-SHA-512"
#"sasl.username" = "billing"
#"ssl.ca.location" = "/etc/ssl/certs/ca-certificates.crt"
"""
# What a setting may be that has no default: a line of a template needs a value.
EXAMPLES = {
    "http.ca_file": "/etc/ssl/files-ca.pem",
    "encryption.key_file": "/run/secrets/processor-keys.toml",
    "encryption.kms_endpoint_url": "https://kms.internal",
    "tracing.sample_ratio": 0.1,
    "registry.token": "better in PROCESSOR_REGISTRY_TOKEN_FILE",
    "registry.ca_location": "/etc/ssl/registry-ca.pem",
    "registry.certificate_location": "/etc/processor/registry.pem",
    "registry.key_location": "/etc/processor/registry-key.pem",
    "registry.key_password": "better in PROCESSOR_REGISTRY_KEY_PASSWORD_FILE",
    "schemas_dir": "schemas",
    "topics_dir": "topics",
    "registry.username": "billing",
    "registry.password": "better in PROCESSOR_REGISTRY_PASSWORD_FILE",
    "s3.endpoint_url": "https://s3.internal",
    "s3.region": "eu-central-1",
    "s3.access_key_id": "better in PROCESSOR_S3_ACCESS_KEY_ID_FILE",
    "s3.secret_access_key": "better in PROCESSOR_S3_SECRET_ACCESS_KEY_FILE",
    "s3.server_side_encryption": "aws:kms",
    "s3.kms_key_id": "alias/jobs",
    "s3.bucket_owner": "123456789012",
    "claims.store": "s3://jobs-claims/billing",
    "outbox.url": "postgresql://user@host:5432/application",
    "worker.metrics_port": 9100,
}


def metrics_table() -> str:
    """Every metric of a worker as a table."""
    head = "| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n"
    return head + "".join(_row(each) for each in CATALOGUE)


def _row(metric: Definition) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.sentence} |\n"


def metrics_document(present: str) -> str:
    """The document with its table made anew."""
    before, _, rest = present.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{METRICS} has no marks"
    return f"{before}{BEGIN}\n{metrics_table()}\n{END}{after}"


def template() -> str:
    """A processor.toml with every setting, its meaning, and its default commented out."""
    meanings = _meanings()
    tables: dict[str, list[str]] = {}
    for name, value in Settings().values().items():
        table, _, setting = name.rpartition(".")
        if name.startswith("kafka."):
            continue
        assert name in meanings, f"docs/configuration.md has no row for {name}"
        assert value is not None or name in EXAMPLES, f"give {name} an example"
        line = f"#{setting} = {_toml(EXAMPLES[name] if value is None else value)}"
        more = "  # an example; not set by default" if value is None else ""
        lines = tables.setdefault(table, [f"[{table}]"] if table else [])
        lines += [*_wrapped(meanings[name]), line + more]
    outside = tables.pop("")  # Of all tables: it has to stand before the first.
    blocks = ["\n".join(lines) + "\n" for lines in (outside, *tables.values())]
    return "\n".join([INTRO, blocks[0], KAFKA, *blocks[1:]])


def _meanings() -> dict[str, str]:
    """Each setting's sentence, as the table of docs/configuration.md has it."""
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| [^|]* \| (.*) \|$", text, re.MULTILINE)
    return {name: meaning.replace("`", "") for name, meaning in rows}


def _wrapped(text: str) -> list[str]:
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)  # A link is its words.
    return textwrap.wrap(
        plain, 98, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _toml(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    plain = isinstance(value, bool | int | float | list | tuple)
    return json.dumps(value if plain else str(value))


def main() -> None:
    """Write what is made."""
    METRICS.write_text(metrics_document(METRICS.read_text(encoding="utf-8")), encoding="utf-8")
    TEMPLATE.write_text(template(), encoding="utf-8")


if __name__ == "__main__":
    main()

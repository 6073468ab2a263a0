from __future__ import annotations

import pytest

from processor.contracts.avro import UNKNOWN_ID_SECONDS
from processor.contracts.own_subjects import OwnSubjects
from processor.errors import ContractError, RegistryUnavailable

VALUE = b"\x00\x00\x00\x00\x07body"


class Subjects:
    def __init__(self, *subjects: str) -> None:
        self.subjects = list(subjects)
        self.asked: list[int] = []
        self.away = False
        self.now = 100.0

    def subjects_of(self, schema_id: int) -> list[str]:
        self.asked.append(schema_id)
        if self.away:
            raise RegistryUnavailable("away")
        return self.subjects


def admit(source: Subjects) -> OwnSubjects:
    return OwnSubjects(source, clock=lambda: source.now)


def test_schema_of_the_topics_own_subject_is_asked_for_once():
    source = Subjects("mail-mail.send", "other-mail.send")
    own = admit(source)

    for _ in range(3):
        own("mail", VALUE, "mail.send")

    assert source.asked == [7]


@pytest.mark.parametrize(
    "subjects", [[], ["other-mail.send"], ["mail-mail.other"], ["mail-value"], ["mail.send"]]
)
def test_schema_of_another_subject_is_refused(subjects: list[str]):
    with pytest.raises(ContractError, match=r"not registered under the subject `mail-mail\.send`"):
        admit(Subjects(*subjects))("mail", VALUE, "mail.send")


def test_own_schema_of_one_topic_is_none_of_another():
    own = admit(Subjects("mail-mail.send"))

    own("mail", VALUE, "mail.send")

    with pytest.raises(ContractError):
        own("letters", VALUE, "mail.send")


def test_foreign_schema_is_asked_for_again_only_after_a_while():
    source = Subjects()
    own = admit(source)
    for _ in range(3):
        with pytest.raises(ContractError):
            own("mail", VALUE, "mail.send")

    source.subjects.append("mail-mail.send")
    source.now += UNKNOWN_ID_SECONDS
    own("mail", VALUE, "mail.send")

    assert source.asked == [7, 7]


def test_registry_that_is_away_is_no_fault_of_the_bytes():
    source = Subjects("mail-mail.send")
    source.away = True
    own = admit(source)
    with pytest.raises(RegistryUnavailable):
        own("mail", VALUE, "mail.send")

    source.away = False

    own("mail", VALUE, "mail.send")

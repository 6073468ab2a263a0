from tests.adapters.objects.conformance import exercise_store
from tests.adapters.objects.memory import MemoryStore


def test_memory_store_keeps_the_ports_promises() -> None:
    exercise_store(MemoryStore(), "memory://objects")

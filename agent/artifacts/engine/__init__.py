"""The parallel mover: ranges over kept connections, written where they belong, resumed and checked."""

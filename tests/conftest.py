"""Fixtures for all tests."""

import pytest

pytest.register_assert_rewrite("tests.contracts")

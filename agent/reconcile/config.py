"""From the mounted document to what is wanted: a bad document changes nothing, and says so (law 2)."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from agent.core.model import DesiredState
from agent.core.modelconfig import ConfigError, desired_state, to_document
from agent.core.reasons import Reason
from agent.telemetry.board import Board

log = logging.getLogger("agent.config")

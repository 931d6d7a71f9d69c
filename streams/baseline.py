"""What there is to compare with: the run's tickets through tier-1 alone and through tier-2 alone.

A ticket that the run already took through a tier isn't asked again. A real
provider is never asked for a comparison's sake: it costs money.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from schemas.answers import Answer, Handoff
from schemas.drafts import Draft
from schemas.tickets import Attempt, Decision, Routed, RouteReason, TicketId
from streams.local import LocalRun
from streams.report import Baseline, Made
from streams.runtime.clock import utc_now
from streams.tier2 import tier2_config
from workers.errors import PermanentError, RetryableError
from workers.learning.adapter import as_ticket
from workers.learning.company import Example
from workers.tier1.drafting import Tier1
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine
from workers.tier2.client import Tier2

TIER1_IN_FLIGHT = 16
TIER2_IN_FLIGHT = 64
"""A recording takes any number; so many keep the comparison short."""

"""What an artifact says of itself, in both formats under the name ``edgekit``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit import __version__
from edgekit.contract import Contract
from edgekit.quant.plan import QuantPlan


def describe(contract: Contract, plan: QuantPlan, facts: Mapping[str, Any]) -> bytes:
    """The contract, the plan's hash, edgekit's version and ``facts`` (source, calibration) as compact JSON."""
    content = {"edgekit": __version__, **facts, "plan_sha256": plan.sha256, "contract": contract.to_json()}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

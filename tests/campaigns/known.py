"""Which campaigns there are."""

from __future__ import annotations

from tests.campaigns.campaign import Campaign
from tests.campaigns.hostile import Hostile
from tests.campaigns.recipes import Recipes
from tests.campaigns.records import Records

CAMPAIGNS: dict[str, type[Campaign]] = {campaign.name: campaign for campaign in (Recipes, Records, Hostile)}
"""Every campaign by name."""

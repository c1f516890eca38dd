"""Which campaigns there are."""

from __future__ import annotations

from tests.campaigns.campaign import Campaign
from tests.campaigns.disks import Disks
from tests.campaigns.hostile import Hostile
from tests.campaigns.kills import Kills
from tests.campaigns.plugins import Plugins
from tests.campaigns.recipes import Recipes
from tests.campaigns.records import Records

_ALL: tuple[type[Campaign], ...] = (Recipes, Records, Hostile, Plugins, Disks, Kills)
CAMPAIGNS = {campaign.name: campaign for campaign in _ALL}
"""Every campaign by name."""

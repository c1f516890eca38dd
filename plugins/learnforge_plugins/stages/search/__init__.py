"""Architecture search: the kind of stage `search`, its driver and its objectives."""

"""Networks: their layers, heads, blocks and features."""

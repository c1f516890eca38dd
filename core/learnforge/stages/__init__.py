"""The kinds of stage that the core brings. Each owns its settings, its abstract method (the hole), and the
loop around it.
"""

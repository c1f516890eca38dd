"""Reports of runs: tables, figures, pages."""

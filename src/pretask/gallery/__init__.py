"""The gallery: a local page with every method's puzzle on one's own data, runs, their maps, and the evidence.

`server` speaks HTTP, `routes` says what lies at which address, the others answer: `methods` (from the
catalogue, without torch), `puzzles` and `panels` (drawing), `shelf` (runs), `evidence`. The page itself is
`static/`, written by hand; it loads nothing from elsewhere.
"""

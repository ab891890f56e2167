"""The pure core: readings come in, decisions go out. No I/O, clock, log, random or asyncio (design §4)."""

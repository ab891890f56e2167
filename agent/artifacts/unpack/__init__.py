"""Archives: their members become flat files of the store, read by a child process that may crash alone.

`unpack` runs the child and believes little of what it says; `child` reads hostile bytes with limits, `tar`,
`zip` and `streams` are the strict readers, `sink` lays the members down, `wire` is what the two say.
"""

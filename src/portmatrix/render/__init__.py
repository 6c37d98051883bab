"""Everything people look at, made from records and ratings: pure functions from data to text.

``table`` holds the data of the badge table and the marks of the outcomes, ``text`` makes foreign text harmless;
``readme``, ``junit``, ``summary`` and ``terminal`` are one format each.
"""

"""The report as a static site: pages that open from a disk, without a network, and load nothing from elsewhere.

``page`` is the contract between the skeleton and its pages, ``build`` puts the site together; ``matrix`` and ``cell``
show the cells one by one, from the files that ``data`` makes; the other pages are one module each.
"""

"""Airloom tried from outside: peers, NASes, devices and customers that share no line with the product.

Rules: standard library alone, and nothing of Airloom's; what goes over the wire is written here a second time,
from the specifications. So what both sides might misunderstand alike is understood here by itself.
`python -m tests.outside --tree FOLDER` tries another checkout.
"""

"""Airloom tried from outside: peers, NASes, devices and customers that share no code with the product.

Rules: standard library alone, and nothing of the product's; what goes over the wire is written here a second
time, from the specifications. So a misunderstanding that product and simulators share is not shared here.
`python -m loadtest.outside --tree FOLDER` tries another checkout; `./run prove outside` this one.
"""

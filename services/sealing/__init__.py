"""Texts that people wrote, sealed so that they can be erased: master keys, a key for each order, AES-256-GCM.

In: events with texts. Out: rows in which texts cannot be read without the order's key.
"""

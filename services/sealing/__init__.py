"""Seals what people wrote, so that it can be erased: with AES-256-GCM, a key for each order, and master keys.

Input: events with texts. Output: rows whose texts cannot be read without the order's key.
"""

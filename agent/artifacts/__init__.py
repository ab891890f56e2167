"""Bytes on disk: fetched, verified, kept in the store and published to the model server."""

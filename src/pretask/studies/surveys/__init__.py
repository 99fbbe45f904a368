"""Surveys as working tables: members by family, protocols, findings."""

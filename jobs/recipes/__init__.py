"""Recipes: named functions that return a typed configuration."""

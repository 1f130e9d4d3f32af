"""Recipes that ship with modalkit."""

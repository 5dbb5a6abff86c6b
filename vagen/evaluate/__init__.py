"""Measuring: world-model report cards, agents' success, and the page that shows them."""

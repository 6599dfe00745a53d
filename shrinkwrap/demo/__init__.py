"""A repository to try everything with, made from software that every machine has, and a tour through it."""

"""shrinkwrap: subtrees of CernVM-FS repositories as verified trees and images, for machines without /cvmfs."""

__version__ = "0.1.0"

"""Where imports read pictures from: archives, folders, prefixes of object storage, manifests."""

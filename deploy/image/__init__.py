"""The CPU worker's image, built and run for real without a container engine: buildah on a base from debootstrap.

Read `build` first (the whole way from an empty folder to an image and its SBOM), then `access` (how this machine
reaches Debian and its Python index, which must not get into an image) and `container` (one locked-down run).
"""

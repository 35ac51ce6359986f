"""NIfTI files in memory: voxels, grids, positions, headers, label maps."""

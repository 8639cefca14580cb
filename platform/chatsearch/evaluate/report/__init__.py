"""The paper's tables and figures, from the sweeps that a tracking store holds."""

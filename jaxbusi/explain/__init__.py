"""Why a trained run answers as it does: what each branch contributes, and where it looks."""

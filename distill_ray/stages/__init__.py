"""The route of the data, one file a stage; start with `pipeline.py`."""

STAGES = {
    "shard": "Read, clean, split, tokenize and pack corpora and tasks.",
    "adapt": "Train the teachers on the domain and keep their checkpoints.",
    "audit": "Measure the teachers: accuracy, calibration, behaviour under shift.",
    "probe": "Distil briefly from every teacher, with several seeds.",
    "rank": "Rank the teachers for every phase of training, or for any progress of the student.",
    "distill": "Distil the student, and fine-tune its control.",
    "evaluate": "Score the student against its control and the teachers.",
    "report": "Write the report.",
}
"""Stage → what it does, in the order of the route; each is a command of the same name."""

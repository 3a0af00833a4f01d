"""Language-model families, the LightningModule that trains them, and frozen models by URI."""

"""The cross-modality network from random weights, all of it trained: exchange without a base."""

from adapters.cross_modality import CrossModalitySam


class UntrainedBaseSam(CrossModalitySam):
    """The two streams with their exchange, trained from random weights instead of a frozen SAM.

    It answers which part of the gain of `CrossModalitySam` is the pretrained base's: architecture,
    exchange, data and steps are equal, and all that the base has learned is missing. A frozen
    random encoder would answer another question, how badly random features serve.
    `BottleneckSam` has the base but no exchange.

    Batch norms of the encoder take the statistics of the batch in training. All weights are trained
    but the prompt encoder's, of which only positions and one embedding are read. The arguments are
    those of `CrossModalitySam`, without `checkpointing`.
    """

    frozen_parts = ("prompt",)

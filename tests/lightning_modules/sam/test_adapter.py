"""The frozen base: its origin, its absence from checkpoints, and the check that it matches."""

import json

import pytest
import torch
from monai.losses import DiceCELoss

from adapters import CrossModalitySam, SingleModalitySam
from backbones import SamImageEncoder, SwinUnet
from errors import InputError
from lightning_modules import SamAdapterModule, SamPretrainModule, SliceBackboneModule
from lightning_modules.base import TRAINED_WEIGHTS
from lightning_modules.inference import Execution
from lightning_modules.sam.embeddings import EmbeddingStore, numerics_of
from lightning_modules.slice_segmentation import SliceModule
from lightning_modules.weights.checkpoints import KEY

SIZE = 64


def module(network=CrossModalitySam, **arguments):
    settings = {"weights": "random", "image_size": SIZE, **arguments}
    return SamAdapterModule(network=network, loss=DiceCELoss(sigmoid=True), **settings)


def saved(model):
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def test_random_base_is_the_same_whatever_the_seed_and_the_trained_parts_are_not():
    torch.manual_seed(1)
    first = module()
    torch.manual_seed(2)
    second = module()
    assert first.base_hash() == second.base_hash()
    assert not torch.equal(first.network.colours[0].weight, second.network.colours[0].weight)
    assert "RANDOM WEIGHTS" in first.remarks()[0]


def test_checkpoint_holds_trained_parts_and_loads_on_its_base():
    model = module()
    with torch.no_grad():
        model.network.adapters[3].fuse.weight.normal_()
    checkpoint = saved(model)
    kept = sum(value.numel() for value in checkpoint["state_dict"].values())
    buffers = sum(value.numel() for value in model.network.decoder.buffers())
    assert kept == model.parameter_counts()["trained"] + buffers
    assert not any(name.startswith("network.encoder.") for name in checkpoint["state_dict"])
    other = module()
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    image = torch.randn(1, 4, SIZE, SIZE)
    model.eval(), other.eval()
    assert torch.equal(model(image), other(image))


def test_the_base_is_beside_no_weights_of_a_checkpoint_with_an_average():
    model = module()
    checkpoint = {name: model.state_dict() for name in ("state_dict", TRAINED_WEIGHTS)}
    stored = {**checkpoint, "optimizer_states": []}
    model.on_save_checkpoint(stored)
    assert set(stored[TRAINED_WEIGHTS]) == set(stored["state_dict"]) < set(model.state_dict())
    module().on_load_checkpoint(stored)
    for name in ("state_dict", TRAINED_WEIGHTS):
        module().load_state_dict(stored[name])


def test_another_base_is_refused():
    checkpoint = saved(module())
    other = module()
    with torch.no_grad():
        other.network.encoder.pos_embed.add_(1e-3)
    with pytest.raises(InputError, match="was trained on the frozen base"):
        other.on_load_checkpoint(checkpoint)
    smaller = module(image_size=SIZE - 16)
    with pytest.raises(InputError, match="was trained on the frozen base"):
        smaller.on_load_checkpoint(checkpoint)


def pretrained_file(folder, **arguments):
    model = SamPretrainModule(image_size=SIZE, **arguments)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    spec = {"class_path": "lightning_modules.SamPretrainModule", "init_args": {"image_size": SIZE}}
    checkpoint[KEY]["model"] = spec
    torch.save(checkpoint, folder / "best.ckpt")
    return model, folder / "best.ckpt"


def test_pretrained_encoder_is_taken_over(tmp_path):
    teacher, file = pretrained_file(tmp_path)
    model = module(weights=str(file))
    for name, value in teacher.encoder.state_dict().items():
        assert torch.equal(model.network.encoder.state_dict()[name], value)
    assert "without labels" in model.remarks()[0]
    with pytest.raises(InputError, match=r"set model\.variant and image_size alike"):
        module(weights=str(file), image_size=SIZE + 16)


def test_weights_that_cannot_be_used_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="vit_tiny was never published"):
        module(weights="official")
    with pytest.raises(InputError, match="not trained yet"):
        module(weights="experiments/sam_tiny_pretrain.yaml")
    with pytest.raises(InputError, match="expected official, random"):
        module(weights="offical")
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth|vit_tiny"):
        module(weights=str(tmp_path / "other.pth"))
    assert "RANDOM" in module(weights=json.dumps({"class_path": "rehearsal"})).remarks()[0]


def test_slice_size_and_image_size_are_held_against_each_other():
    with pytest.raises(InputError, match=r"data\.slice_size is 128 and model\.image_size 64"):
        module().check_patch([128, 128])
    module().check_patch([SIZE, SIZE])


def test_slices_are_segmented_one_by_one():
    model = module().eval()
    model.precision = "fp32"
    image = torch.randn(1, 11, 4, SIZE, SIZE)
    with torch.no_grad():
        expected = torch.cat([torch.sigmoid(model(slice_[None])) for slice_ in image[0]])
    torch.testing.assert_close(model.probabilities(image)[0], expected, atol=1e-4, rtol=1e-4)


def test_store_computes_whole_groups_once_and_rounds_to_half(tmp_path):
    store, calls = EmbeddingStore(tmp_path, group=4), []
    values = torch.randn(10, 2, 3, 3)

    def encode(members):
        calls.append(list(members))
        return values[members]

    keys = [f"{index:02d}" for index in range(10)]
    assert store.fill(keys, encode) == 10
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(store.read(["07", "01"]), values[[7, 1]].half().float())
    assert store.fill(keys, encode) == 0
    (tmp_path / "05" / "05.npy").unlink()
    assert store.fill(keys, encode) == 4  # the whole group, for equal rounding
    assert calls[-1] == [4, 5, 6, 7]


def test_stored_embeddings_train_the_decoder_as_the_encoder_itself_does(tmp_path):
    model = module(network=lambda *how: SingleModalitySam(*how, modality="flair"))
    model.precision = "fp32"
    image, mask = torch.randn(3, 4, SIZE, SIZE), (torch.rand(3, 1, SIZE, SIZE) > 0.7).float()
    batch = {"image": image, "mask": mask, "slice_key": ["aa", "bb", "cc"]}
    with_encoder = SliceModule.compute_loss(model, batch)
    model.store = EmbeddingStore(tmp_path)
    model.store.fill(batch["slice_key"], lambda members: model.embed(image[members]))
    batch["image"] = torch.full_like(image, torch.nan)  # the encoder is not called again
    stored = model.compute_loss(batch)
    torch.testing.assert_close(stored, with_encoder, atol=2e-3, rtol=2e-3)
    stored.backward()
    assert all(
        weight.grad is not None for weight in model.network.parameters() if weight.requires_grad
    )


def test_pretraining_teaches_the_encoder_to_fill_in():
    torch.manual_seed(0)
    model = SamPretrainModule(image_size=SIZE)
    ramp = torch.linspace(-1, 1, SIZE).expand(SIZE, SIZE)
    image = torch.stack([ramp, ramp.T, -ramp, ramp * ramp.T]).expand(4, 4, SIZE, SIZE) + 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def error():
        with torch.no_grad():
            return float(model.loss_of(image, torch.Generator().manual_seed(7)))

    before = error()
    for _ in range(40):
        optimizer.zero_grad()
        model.compute_loss({"image": image}).backward()
        optimizer.step()
    assert error() < 0.6 * before
    assert all(weight.grad is not None for weight in model.encoder.parameters())


def test_pretraining_hides_its_share_in_blocks_and_counts_only_those():
    model = SamPretrainModule(image_size=256, masked=0.5, block=32)
    hidden = model.hide(torch.Size([8, 3, 256, 256]))
    assert hidden.shape == (8, 1, 256, 256)
    assert 0.35 < float(hidden.mean()) < 0.65
    blocks = hidden.unfold(2, 32, 32).unfold(3, 32, 32)
    assert torch.equal(blocks.amin((-1, -2)), blocks.amax((-1, -2)))
    with pytest.raises(InputError, match="multiple of 16"):
        SamPretrainModule(image_size=SIZE, block=24)
    with pytest.raises(InputError, match="between 0 and 1"):
        SamPretrainModule(image_size=SIZE, masked=1.0)


def test_encoder_of_pretraining_is_the_one_of_the_adapter():
    assert isinstance(SamPretrainModule(image_size=SIZE).encoder, SamImageEncoder)


def test_a_rivals_checkpoint_does_not_ask_for_its_pretrained_file_again():
    model = SliceBackboneModule(network=SwinUnet, image_size=SIZE, loss=DiceCELoss(sigmoid=True))
    model.origin = "swin.pth, 3 tensors are not in it and began random"
    model.card["model"] = {"class_path": "x", "init_args": {"weights": "swin.pth"}}
    checkpoint = saved(model)
    assert checkpoint[KEY]["model"]["init_args"]["weights"] is None
    other = SliceBackboneModule(network=SwinUnet, image_size=SIZE, loss=DiceCELoss(sigmoid=True))
    other.on_load_checkpoint({**checkpoint, KEY: {**checkpoint[KEY], "patch_size": [SIZE, SIZE]}})
    assert other.remarks() == [f"training began from {model.origin}"]


def test_card_names_the_base_from_any_folder(tmp_path, monkeypatch):
    _, file = pretrained_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = module(weights=file.name)
    model.card["model"] = {"class_path": "x", "init_args": {"weights": "experiments/stage.yaml"}}
    assert saved(model)[KEY]["model"]["init_args"]["weights"] == str(file)
    file.unlink()
    with pytest.raises(InputError, match="put it back, or name its new place"):
        module(weights=str(file))


def test_stored_embeddings_belong_to_what_decides_their_last_digits(monkeypatch):
    first = numerics_of(Execution())
    assert first == numerics_of(Execution(reason="another"))
    assert numerics_of(Execution(precision="bf16")) != first
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    threaded = numerics_of(Execution())
    assert threaded != first
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert numerics_of(Execution(device="cuda")) not in (first, threaded)


def test_pretraining_goes_on_past_a_batch_of_blank_slices():
    model = SamPretrainModule(image_size=SIZE)
    loss = model.loss_of(torch.zeros(2, 4, SIZE, SIZE))
    loss.backward()
    assert float(loss) == 0
    assert all(weight.grad.isfinite().all() for weight in model.encoder.parameters())

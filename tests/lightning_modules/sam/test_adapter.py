"""The frozen base: its origin, its absence from checkpoints, and the check that it matches."""

import hashlib
from dataclasses import replace

import pytest
import torch
from monai.losses import DiceCELoss

from adapters import CrossModalitySam, SingleModalitySam
from backbones import SwinUnet
from backbones.sam.variants import VARIANTS
from errors import InputError
from lightning_modules import SamAdapterModule, SliceBackboneModule
from lightning_modules.base import TRAINED_WEIGHTS
from lightning_modules.inference import Execution
from lightning_modules.sam.embeddings import EmbeddingStore, numerics_of
from lightning_modules.slice_segmentation import SliceModule
from lightning_modules.weights.checkpoints import KEY
from lightning_modules.weights.published import PUBLISHED, Published
from tests.backbones.sam.peer import SMALL

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
    name = "decoder.mask_tokens.weight"
    assert not torch.equal(first.network.state_dict()[name], second.network.state_dict()[name])
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
        other.network.encoder.layers[1].blocks[0].local_conv.bn.running_var.add_(1e-3)
    with pytest.raises(InputError, match="was trained on the frozen base"):
        other.on_load_checkpoint(checkpoint)
    lite = module(variant="lite_medsam")
    with pytest.raises(InputError, match=r"frozen base .* \(mobile_sam, RANDOM.* \(lite_medsam"):
        lite.on_load_checkpoint(checkpoint)


def weights_file(folder, variant="mobile_sam"):
    """A file of random weights laid out as the published one."""
    torch.manual_seed(5)
    network = SingleModalitySam(variant, SIZE)
    prefixes = {"encoder.": "image_encoder.", "prompt.": "prompt_encoder."}
    prefixes["decoder."] = "mask_decoder."
    state = {}
    for name, value in network.state_dict().items():
        first, _, rest = name.partition(".")
        state[f"{prefixes[f'{first}.']}{rest}"] = value
    state["image_encoder.head.weight"] = torch.zeros(10, 320)
    torch.save(state, folder / f"{variant}-random.pt")
    return network, folder / f"{variant}-random.pt"


def test_weights_of_a_file_are_taken_over_whole(tmp_path):
    source, file = weights_file(tmp_path)
    model = module(weights=str(file), colour_rate=30.0)
    for name, value in source.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value), name
    origin = f"pretrained, {file}, which is no published file known here"
    assert model.remarks()[0] == f"frozen base mobile_sam: {origin}"


def test_remarks_name_contamination_and_padded_windows(tmp_path):
    _, file = weights_file(tmp_path, "lite_medsam")
    lite = module(variant="lite_medsam", weights=str(file)).remarks()
    assert any("may be contaminated" in remark for remark in lite)
    assert any("multiple of 56" in remark for remark in lite)
    assert not any("contaminated" in remark for remark in module().remarks())
    assert len(module(variant="lite_medsam", image_size=56).remarks()) == 1


@pytest.fixture
def small_vits(monkeypatch):
    """A quarter of ViT-B in its place and in that of MedSAM's."""
    for name in ("vit_b", "medsam_vit_b"):
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], shape=SMALL))


def test_bases_of_equal_weights_and_other_grey_values_are_told_apart(small_vits, tmp_path):
    plain, medical = (module(SingleModalitySam, variant=name) for name in ("vit_b", "medsam_vit_b"))
    plain.precision = medical.precision = "fp32"
    assert plain._embedding_folder(tmp_path) != medical._embedding_folder(tmp_path)
    with pytest.raises(InputError, match=r"\(vit_b, .* \(medsam_vit_b, "):
        medical.on_load_checkpoint(saved(plain))


def test_a_file_of_another_variant_of_equal_shape_is_refused(small_vits, tmp_path, monkeypatch):
    _, file = weights_file(tmp_path, "vit_b")
    renamed = file.rename(tmp_path / "medsam_vit_b.pth")
    with pytest.raises(
        InputError, match=r"has the name of the weights of medsam_vit_b, but .* is vit_b"
    ):
        module(variant="vit_b", weights=str(renamed))
    assert "known" not in module(variant="medsam_vit_b", weights=str(renamed)).origin
    again = renamed.rename(tmp_path / "mine.pth")
    digits = hashlib.sha256(again.read_bytes()).hexdigest()[:6]
    monkeypatch.setitem(PUBLISHED, "vit_b", Published("sam_vit_b.pth", digits))
    with pytest.raises(InputError, match=r"holds the weights of vit_b, but .* is medsam_vit_b"):
        module(variant="medsam_vit_b", weights=str(again))
    assert "known" not in module(variant="vit_b", weights=str(again)).origin


def test_colours_have_a_rate_of_their_own():
    model = module(colour_rate=30.0, optimizer=lambda weights: torch.optim.AdamW(weights, lr=1e-3))
    optimizer = model.configure_optimizers()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-3, 3e-2])
    colours = optimizer.param_groups[1]["params"]
    assert {id(one) for one in colours} == {id(one) for one in model.network.colours.parameters()}
    sizes = [sum(one.numel() for one in group["params"]) for group in optimizer.param_groups]
    assert sizes == [3_776_786 - 18, 18]
    with pytest.raises(InputError, match=r"colour_rate is 0.*above 0"):
        module(colour_rate=0.0)
    with pytest.raises(InputError, match="SingleModalitySam does not have"):
        module(network=SingleModalitySam, colour_rate=2.0)


def test_weights_that_cannot_be_used_are_one_sentence(tmp_path):
    for wrong in ("offical", "experiments/sam_adapter.yaml", "runs/best.ckpt"):
        with pytest.raises(InputError, match=rf"weights is '{wrong}'.*published, random, or"):
            module(weights=wrong)
    with pytest.raises(InputError, match=r"medsam_vit_b are fetched from nowhere"):
        module(variant="medsam_vit_b", weights=None)
    _, file = weights_file(tmp_path, "lite_medsam")
    with pytest.raises(InputError, match="are of SAM's lite_medsam where those of mobile_sam"):
        module(weights=str(file))


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
    _, file = weights_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = module(weights=file.name)
    model.card["model"] = {"class_path": "x", "init_args": {"weights": "published"}}
    assert saved(model)[KEY]["model"]["init_args"]["weights"] == str(file)
    file.unlink()
    with pytest.raises(InputError, match=r"No weights at .*model\.weights"):
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

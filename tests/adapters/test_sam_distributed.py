"""Two gloo processes train the adapter under plain DDP, which stops at an unused weight."""

import os
import socket

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from adapters import CrossModalitySam


def train(rank, port, folder):
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = DistributedDataParallel(CrossModalitySam("mobile_sam", 64))
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    image = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(rank))
    for _ in range(2):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(
            network(image), (image[:, :1] > 0).float()
        ).backward()
        optimizer.step()
    torch.save(network.module.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="gloo is not built in")
def test_two_processes_train_plainly(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(train, args=(port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    start = CrossModalitySam("mobile_sam", 64)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert not torch.equal(first["adapters.5.fuse.weight"], start.adapters[5].fuse.weight)
    for name, value in start.frozen_state().items():
        assert torch.equal(first[name], value), name

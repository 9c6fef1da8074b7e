"""What the encoder takes, and what it rejects and reports."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros


def image(stamp, value=0, **fields):
    from sensor_msgs.msg import Image

    pixels = np.full((96, 96, 3), value, np.uint8)
    pixels[:24, :24] = 255 - value
    message = Image(height=96, width=96, encoding="rgb8", step=288, data=pixels.tobytes())
    message.header.stamp.sec = stamp
    for name, content in fields.items():
        setattr(message, name, content)
    return message


def encoder(processes, checkpoint):
    return processes.node("encoder_node", checkpoint=checkpoint)  # on simulated time, which has not begun


def test_wrong_images_are_rejected_and_named_once(processes, observer, checkpoint):
    from sensor_msgs.msg import Image

    latents = observer.collect(Image, "latent")
    node = encoder(processes, checkpoint)
    publisher = observer.node.create_publisher(Image, "camera/image_raw", 10)
    observer.until(lambda: publisher.get_subscription_count() > 0)
    observer.until(
        lambda: "16UC1" in node.log.read_text(), again=lambda: publisher.publish(image(1, encoding="16UC1"))
    )
    observer.repeat(lambda: publisher.publish(image(1, encoding="16UC1")), 3)
    for stamp, fields in enumerate(
        ({"data": b"\0" * 100}, {"step": 1, "data": b"\0"}, {"encoding": "nv24"}, {"data": b""}), start=2
    ):
        count = node.log.read_text().count("was rejected")
        observer.until(
            lambda count=count: node.log.read_text().count("was rejected") > count,
            again=lambda stamp=stamp, fields=fields: publisher.publish(image(stamp, **fields)),
        )
    observer.until(lambda: latents, again=lambda: publisher.publish(image(9, 200)))
    assert latents[0].header.stamp.sec == 9  # nothing came of the wrong ones
    log = node.log.read_text()
    assert log.count("16UC1") == 1
    assert "camera/image_raw was rejected" in log
    assert "Traceback" not in log


def test_latents_carry_the_stamp_and_are_the_models(processes, observer, checkpoint):
    import torch
    from sensor_msgs.msg import Image

    from world_model_ros.model.checkpoint import load_checkpoint
    from world_model_ros.model.encoder import prepare_images

    latents = observer.collect(Image, "latent")
    encoder(processes, checkpoint)
    publisher = observer.node.create_publisher(Image, "camera/image_raw", 10)
    observer.until(lambda: latents, again=lambda: publisher.publish(image(7, 120)))
    pixels = np.frombuffer(bytes(image(7, 120).data), np.uint8).reshape(1, 96, 96, 3)
    model, spec = load_checkpoint(checkpoint)
    with torch.inference_mode():
        expected = model.encode(prepare_images(pixels, spec.image))[0]
    values = np.frombuffer(latents[0].data, np.float32)
    assert latents[0].header.stamp.sec == 7
    assert np.allclose(values, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kept", [True, False], ids=["latched", "volatile"])
def test_goals_are_heard_whoever_comes_first(processes, observer, checkpoint, kept):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image

    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    goals = observer.collect(Image, "goal/latent", latched)
    durability = DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE
    publisher = observer.node.create_publisher(
        Image, "goal/image", QoSProfile(depth=1, durability=durability)
    )
    if kept:  # published before there is an encoder
        publisher.publish(image(5, 60))
        encoder(processes, checkpoint)
    else:
        encoder(processes, checkpoint)
        observer.until(lambda: publisher.get_subscription_count() > 0)
        publisher.publish(image(5, 60))
    observer.until(lambda: goals)
    publisher.publish(image(6, 90))
    observer.until(lambda: goals[-1].header.stamp.sec == 6)
    assert [goal.header.stamp.sec for goal in goals] == [5, 6]  # each one once


def test_goals_of_another_shape_than_the_camera_are_rejected(processes, observer, checkpoint):
    from sensor_msgs.msg import Image

    goals, latents = observer.collect(Image, "goal/latent"), observer.collect(Image, "latent")
    node = encoder(processes, checkpoint)
    camera = observer.node.create_publisher(Image, "camera/image_raw", 10)
    goal = observer.node.create_publisher(Image, "goal/image", 10)
    observer.until(lambda: latents, again=lambda: camera.publish(image(1, 50)))
    observer.until(
        lambda: "same camera" in node.log.read_text(),
        again=lambda: goal.publish(image(2, height=48, data=bytes(48 * 288))),
    )
    observer.until(lambda: goals, again=lambda: goal.publish(image(3, 70)))
    assert {message.header.stamp.sec for message in goals} == {3}

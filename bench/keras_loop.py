"""The paper's stack: Keras, frozen MobileNetV2. Measured, not used; needs TensorFlow.

Whether the weights are ImageNet's or random does not change the time, so no download is needed.
"""

from __future__ import annotations

import argparse


def main() -> None:
    """Trains on 70 % of the images and validates on the rest in every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=5)
    asked = parser.parse_args()
    import keras

    train, val = keras.utils.image_dataset_from_directory(
        asked.data,
        validation_split=0.3,
        subset="both",
        seed=0,
        image_size=(224, 224),
        batch_size=16,
    )
    base = keras.applications.MobileNetV2(include_top=False, weights=None, pooling="avg")
    base.trainable = False
    images = keras.Input((224, 224, 3))
    x = keras.layers.RandomFlip("horizontal")(images)
    x = keras.layers.RandomZoom(0.1)(x)
    x = keras.layers.RandomTranslation(0.05, 0.05)(x)
    x = keras.layers.RandomBrightness(0.1)(x)
    x = keras.applications.mobilenet_v2.preprocess_input(x)
    x = keras.layers.Dropout(0.2)(base(x, training=False))
    model = keras.Model(images, keras.layers.Dense(4, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, validation_data=val, epochs=asked.epochs, verbose=2)


if __name__ == "__main__":
    main()

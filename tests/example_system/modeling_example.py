"""The example system: an expression weighs the channels of a convolution's map, and one convolution reads the mask."""

from torch import nn
from transformers import BertModel

from .configuration_example import ExampleConfig
from .grounding_losses import AuxiliaryLosses
from .modeling_trainable_segmentation import RawPrediction, TrainableSegmentationModel


class ExampleForReferringSegmentation(TrainableSegmentationModel):
    config: ExampleConfig
    config_class = ExampleConfig
    base_model_prefix = "example"

    def __init__(self, config: ExampleConfig) -> None:
        super().__init__(config)
        width = config.hidden_dim
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.bert = BertModel(config.text_config, add_pooling_layer=False)
        self.channel_weights = nn.Linear(config.text_config.hidden_size, width)
        self.mask = nn.Conv2d(width, 1, 1)
        self.auxiliary_losses = AuxiliaryLosses(config, pixel_width=width)
        self.post_init()

    @property
    def image_encoder(self) -> nn.Module:
        return self.convolutions

    @property
    def text_encoder(self) -> BertModel:
        return self.bert

    @property
    def input_modules(self) -> tuple[nn.Module, ...]:
        return self.convolutions[0], self.bert.get_input_embeddings()

    def encode_images(self, pixel_values):
        return self.convolutions(pixel_values)

    def fuse(self, images, input_ids, is_word):
        words = self.bert(input_ids, is_word).last_hidden_state
        sentence = (words * is_word[..., None]).sum(1) / is_word.sum(1, keepdim=True).clamp(min=1)
        per_image = len(input_ids) // len(images)
        return [images.repeat_interleave(per_image, dim=0) * self.channel_weights(sentence)[..., None, None]], words

    def segment(self, images, input_ids, is_word, output_features):
        maps, words = self.fuse(images, input_ids, is_word)
        return RawPrediction([self.mask(maps[0])[:, 0]], None, maps[0], maps, words)

    def mask_losses(self, predictions, labels):
        logits = nn.functional.interpolate(predictions[-1][:, None], labels.shape[1:], mode="bilinear")[:, 0]
        return {"bce": nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())}


__all__ = ["ExampleForReferringSegmentation"]

"""What findings, failing hops and failing taps are called, so that nothing has to read their sentences.

In: nothing. Out: names. `docs/record.md` lists them; a code that a reader of records may know keeps its meaning.
"""

from __future__ import annotations

from enum import StrEnum


class FindingCode(StrEnum):
    """What a finding is about. It is a word of the record, so a later version may add some."""

    # Configs
    CONFIG_DIFFERS = "config-differs"  # a field has another value in the re-authored config than in the published one
    FIELD_IGNORED = "field-ignored"  # the re-authored config sets a field that the model's class does not read
    FIELD_NOT_AUDITED = "field-not-audited"  # a field that could not be compared
    FIELD_ROUNDED = "field-rounded"  # the checkpoint's dtype would round a field that every stage has in float32
    CONFIGS_NOT_AUDITED = "configs-not-audited"  # the audit of the configs did not end

    # The checkpoint, and what the re-authored model takes of it
    NAMES_WRONG = "names-wrong"  # tensor_names of the declaration cannot be used
    KEY_LACKING = "key-lacking"  # the loader asks for a key that the checkpoint lacks
    KEY_NOT_LOADED = "key-not-loaded"  # a key of the checkpoint goes nowhere
    KEY_WITHOUT_PLACE = "key-without-place"  # a key goes to a parameter that there is not
    KEYS_LEFT_OUT = "keys-left-out"  # keys that transformers leaves out as well
    KEYS_CLASH = "keys-clash"  # two keys with other values for one parameter
    HEAD_DROPPED = "head-dropped"  # the re-authored model ties the head, and the checkpoint has one of its own
    SHAPE_DIFFERS = "shape-differs"  # a key has another shape than its parameter
    LOADER_FAILS = "loader-fails"  # the re-authored loader raises
    PARAMETER_NOT_LOADED = "parameter-not-loaded"  # a parameter receives no value
    PARAMETER_DIFFERS = "parameter-differs"  # a loaded parameter is not, bit for bit, what the checkpoint holds
    PARAMETERS_NOT_AUDITED = "parameters-not-audited"  # loaded parameters whose source is not known
    BUILDER_GIVES_NONE = "builder-gives-none"  # the example's own builder returns None where a key lacks
    BUILDER_GIVES_MODEL = "builder-gives-model"  # the example's own builder makes a model where a key lacks
    CHECKPOINT_NOT_FINITE = "checkpoint-not-finite"  # the checkpoint holds NaN or infinity
    WEIGHT_BEYOND_FLOAT16 = "weight-beyond-float16"  # a float16 file would hold infinity in its place

    # The constants of a flatbuffer
    CONSTANT_DIFFERS = "constant-differs"  # what every signature reads is not the parameter that it should be
    CONSTANT_DIFFERS_IN_PART = "constant-differs-in-part"  # the same of what some signatures alone read
    CONSTANT_LACKING = "constant-lacking"  # no constant holds a parameter
    CONSTANT_LACKING_IN_PART = "constant-lacking-in-part"  # no constant that some signatures read holds a parameter
    CONSTANT_TURNED = "constant-turned"  # an operator takes a constant the other way round than elsewhere
    CONSTANT_NOT_COMPARED = "constant-not-compared"  # a parameter's tensors do not fit together
    CONSTANTS_UNKNOWN = "constants-unknown"  # constants that could not be matched with a parameter
    WEIGHTS_WRONG = "weights-wrong"  # so many parameters or constants are wrong that the first few alone are listed
    MASK_WRONG = "mask-wrong"  # an attention mask that is a constant hides other positions
    FILE_NOT_FINITE = "file-not-finite"  # a recipe's flatbuffer holds NaN or infinity

    # What a recipe made of the weights
    RECIPE_NOT_APPLIED = "recipe-not-applied"  # a layer is in float32 that the recipe asks to be quantised
    RECIPE_FLOAT_DIFFERS = "recipe-float-differs"  # a constant left in float is not that of the float32 file
    RECIPE_DIFFERS = "recipe-differs"  # another type, granularity or block size than the recipe asks for
    RECIPE_SCALE_WRONG = "recipe-scale-wrong"  # scales that are not scales, or far from the best ones
    RECIPE_SCALE_WIDE = "recipe-scale-wide"  # scales so wide that channels use less than half of their steps
    RECIPE_WEIGHT_WRONG = "recipe-weight-wrong"  # further from the checkpoint's weight than the nearest on its grid

    # Numbers
    WINDOW_NOT_TESTED = "window-not-tested"  # no input is longer than the sliding window
    POSITIONS_SAMPLED = "positions-sampled"  # inputs so long that most taps were compared at some positions only
    INPUTS_NOT_IMPORTED = "inputs-not-imported"  # inputs of the run on which imported traces give nothing
    IMPORTED_IN_NARROW = "imported-in-narrow"  # imported traces hold numbers of float16 or bfloat16 alone
    EDGES_NOT_RUN = "edges-not-run"  # edges of the context that lie past the end of the KV cache
    VALUE_BEYOND_FLOAT16 = "value-beyond-float16"  # a tap holds what float16 cannot
    SQUARE_BEYOND_FLOAT16 = "square-beyond-float16"  # a norm's input does when it is squared
    VALUE_SUBNORMAL_FLOAT16 = "value-subnormal-float16"  # most values of a tap are subnormal in float16
    TEXT_NEAR_CHANCE = "text-near-chance"  # the reference predicts text no better than a guess
    TEXT_WORSE = "text-worse"  # the reference predicts text worse than in an earlier run
    TEXT_NOT_MEASURED = "text-not-measured"  # perplexity was to be measured, and could not be
    SETTING_CHANGED = "setting-changed"  # the spec or the environment sets what the stages compute with

    # What ran
    CODE_REPLACED = "code-replaced"  # the spec file replaces code of a package
    LOCAL_PASS_LOST = "local-pass-lost"  # a local pass did not end, so its limits were not checked
    SENSITIVITY_LOST = "sensitivity-lost"  # the measuring of what each tensor costs did not end
    SPEED_NOT_MEASURED = "speed-not-measured"  # the measuring of how fast a stage is did not end
    TAPPED_COPY_DIFFERS = "tapped-copy-differs"  # the tapped copy gives other outputs than the untouched file
    CACHE_OVERWRITTEN = "cache-overwritten"  # a position past the KV cache overwrites slots of it
    POSITION_NOT_KEPT = "position-not-kept"  # a position past the KV cache is accepted and not kept
    LAST_POSITION_DIFFERS = "last-position-differs"  # the last position of the KV cache gives something else
    LAW_BROKEN = "law-broken"  # what must hold of a stage with no reference does not
    LAW_NOT_CHECKED = "law-not-checked"  # a law was to be checked on a stage, and could not be
    SIGNATURES_NOT_RUN = "signatures-not-run"  # no input takes these signatures of the flatbuffer
    DECODE_NOT_DRAWN = "decode-not-drawn"  # the reference did not draw the tokens that were to be decoded
    GENERATION_NOT_RUN = "generation-not-run"  # a stage was to generate tokens, and did not end
    GENERATES_ANOTHER_TOKEN = "generates-another-token"  # a stage does, where the margin is above the noise
    GENERATES_OTHER_TEXT = "generates-other-text"  # a file of text is wrong about the prompt's tokens, or its text
    LOOP_NOT_RUN = "loop-not-run"  # a file that generates by itself, or the engine that apps use, could not be run
    OPERATOR_NOT_FOUND = "operator-not-found"  # the search for a fault's operator did not end
    FAULT_NOT_EXPLAINED = "fault-not-explained"  # the explanation did not end
    RUNTIME_NOT_JUDGED = "runtime-not-judged"  # what runtimes compute with a recipe's file, and what that rests on
    RIGHT_BY_ITSELF = "right-by-itself"  # a step that is wrong in the run is right when it is run by itself

    # A bundle
    BUNDLE_SECTIONS_WRONG = "bundle-sections-wrong"  # a bundle lacks a section, has one twice, or one of another kind
    BUNDLE_NOT_UNDERSTOOD = "bundle-not-understood"  # a bundle holds what is not looked at
    BUNDLE_OTHER_MODEL = "bundle-other-model"  # the flatbuffer in a bundle is another model's
    BUNDLE_FILE_NOT_JUDGED = "bundle-file-not-judged"  # no run has judged the flatbuffer in a bundle, or it failed
    BUNDLE_RECIPE_DIFFERS = "bundle-recipe-differs"  # the flatbuffer in a bundle is quantised otherwise than declared
    BUNDLE_KV_LAYOUT = "bundle-kv-layout"  # the engine takes the KV heads of the flatbuffer for its context
    BUNDLE_CONTEXT_DIFFERS = "bundle-context-differs"  # a bundle names another context than its KV cache has
    BUNDLE_STOP_DIFFERS = "bundle-stop-differs"  # the engine ends a text at other tokens than the checkpoint says
    BUNDLE_START_DIFFERS = "bundle-start-differs"  # a prompt gets other tokens before it than Hugging Face gives it
    BUNDLE_TOKENS_DIFFER = "bundle-tokens-differ"  # the engine makes other ids of a text than Hugging Face
    BUNDLE_TEMPLATE_EMPTY = "bundle-template-empty"  # the engine renders a conversation to nothing
    BUNDLE_TEMPLATE_DIFFERS = "bundle-template-differs"  # the engine renders a conversation otherwise than Hugging Face
    BUNDLE_ENGINE_REFUSES = "bundle-engine-refuses"  # the engine does not open a bundle, or does not run it


class TapCode(StrEnum):
    """Why a tap fails that breaks no figure's limit; else the figures are named."""

    SHAPES_DIFFER = "shapes-differ"  # the two sides have other shapes
    NO_RULE = "no-rule"  # no tolerance rule matches it
    LIMITS_NOTHING = "limits-nothing"  # its values are smaller than the only limits on its error


class ReasonCode(StrEnum):
    """Why a hop fails."""

    STAGE_LOST = "stage-lost"  # a stage that it needs did not end well
    TAPS_FAIL = "taps-fail"  # taps break a limit
    TAPS_MISSING = "taps-missing"  # taps are missing for no listed reason
    OVER_BUDGET = "over-budget"  # what is of no single input breaks a limit: on the text, or the size of a file
    COVERAGE_LOW = "coverage-low"  # fewer taps were compared than the model declares


class CostCause(StrEnum):
    """What makes a tensor of a quantised file cost more than its share."""

    SCALE = "scale"  # its scales are far from the best ones of their kind
    OUTLIER_CHANNELS = "outlier-channels"  # a few input channels give most of its error
    INPUTS = "inputs"  # most of its error is that of its input, which is quantised row by row
    BEFORE_SOFTMAX = "before-softmax"  # queries or keys: rope and the softmax pass their error on to every position
    HEAD = "head"  # its error stands in the logits as it is
    EMBEDDING = "embedding"  # its error goes into every layer
    NUMBERS = "numbers"  # none of these: so few bits are too few for it

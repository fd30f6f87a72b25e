import * as DecisionLog from "@llm-resilience/core/DecisionLog"
import * as Notice from "@llm-resilience/core/Notice"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as ResilienceConfig from "@llm-resilience/core/ResilienceConfig"
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"

const share = (from: (n: number) => boolean) => Schema.Finite.check(Schema.makeFilter((n: number) => from(n) && n <= 1))
const Rate = share((n) => n >= 0)
// What always holds is no expectation.
const Share = share((n) => n > 0)
const PositiveInt = Schema.Int.check(Schema.makeFilter((n: number) => n >= 1))

// The levels of the log name each event once, which is why the cast is right.
export const events = Object.keys(DecisionLog.levels).toSorted() as ReadonlyArray<ResilienceEvent["_tag"]>
export const notices = Notice.Notice.members.map(({ fields }) => fields._tag.schema.literal)

/** All mistakes at once, and no key that nobody knows. */
export const strict = { errors: "all", onExcessProperty: "error" } as const

type Time<E> = Schema.Codec<Duration.Duration, E>

// A drill in a file and a drill in code differ in how they write a time: a `length` is longer than zero, a `moment` may be the start.
const shape = <E>(length: Time<E>, moment: Time<E>) => {
  const faults = {
    error: Schema.Struct({
      error: Schema.Union([Schema.Literals(["Timeout", "RateLimited"]), ProviderError.Reason]),
      retryAfter: Schema.optional(length)
    }),
    latency: Schema.Struct({ latency: length }),
    slowTokens: Schema.Struct({ slowTokens: length }),
    output: Schema.Struct({ output: Schema.Literals(["empty", "looping", "refusing", "corrupted"]) }),
    hang: Schema.Struct({ hang: Schema.Literal(true) })
  }
  const fault = Schema.Union([faults.error, faults.latency, faults.slowTokens, faults.output, faults.hang])
  const when = { after: Schema.optional(moment), until: Schema.optional(length) }
  const expectations = {
    answered: Schema.Struct({ answered: Share, ...when }),
    share: Schema.Struct({ share: Schema.NonEmptyString, atLeast: Share, ...when }),
    latency: Schema.Struct({ latency: Schema.Literals(["p50", "p95", "p99"]), atMost: length, ...when }),
    alert: Schema.Struct({ alert: Schema.NonEmptyString, within: length, of: moment }),
    metric: Schema.Struct({ metric: Schema.Literals(events), atLeast: PositiveInt, ...when }),
    log: Schema.Struct({ log: Schema.NonEmptyString, ...when }),
    notice: Schema.Struct({ notice: Schema.Literals(notices), ...when })
  }
  const traffic = Schema.Struct({
    every: length,
    for: length,
    deadline: Schema.optional(length),
    questions: Schema.optional(PositiveInt)
  })
  const step = Schema.Struct({
    at: moment,
    provider: Schema.NonEmptyString,
    /** None of it heals the provider. */
    fault: Schema.optional(fault),
    rate: Schema.optional(Rate),
    /** How long it is there and how often it comes back; from `at` on for ever by default. */
    for: Schema.optional(length),
    every: Schema.optional(length)
  })
  const drill = Schema.Struct({
    name: Schema.NonEmptyString,
    about: Schema.String,
    traffic,
    steps: Schema.Array(step),
    expectations: Schema.Array(
      Schema.Union([
        expectations.answered,
        expectations.share,
        expectations.latency,
        expectations.alert,
        expectations.metric,
        expectations.log,
        expectations.notice
      ])
    )
  })
  return { drill, traffic, step, fault, faults, expectations }
}

/** Reads a time as a file or a program writes it; what is none, or never ends, is `undefined`. */
export const read = (value: unknown): Duration.Duration | undefined => {
  if (typeof value === "string") return zero.test(value) ? Duration.zero : Option.getOrUndefined(ofText(value))
  if (value === undefined || value === null) return undefined
  // Whatever is no duration is refused by `fromInput` itself.
  const duration = Duration.fromInput(value)
  return Option.getOrUndefined(Option.filter(duration, Duration.isFinite))
}

const zero = /^0+(?:\.0+)?\s*[a-z]+$/i
const ofText = Schema.decodeUnknownOption(ResilienceConfig.DurationText)

const time = <E>(
  written: Schema.Codec<E>,
  write: (duration: Duration.Duration) => E,
  from: (duration: Duration.Duration) => boolean
): Time<E> => {
  const isOne = (value: E): boolean => {
    const duration = read(value)
    return duration !== undefined && from(duration)
  }
  return written
    .check(Schema.makeFilter(isOne))
    .pipe(
      Schema.decodeTo(
        Schema.Duration,
        SchemaTransformation.transform({ decode: (value: E) => read(value) ?? Duration.zero, encode: write })
      )
    )
}

const times = <E>(written: Schema.Codec<E>, write: (duration: Duration.Duration) => E) =>
  shape(
    time(written, write, Duration.isPositive),
    time(written, write, (duration) => !Duration.isNegative(duration))
  )

export const inFile = times(Schema.String, (duration) => `${Duration.toMillis(duration)}ms`)

export const inCode = times(
  Schema.declare((value): value is Duration.Input => read(value) !== undefined),
  (duration) => duration
)

/**
 * The configuration of a chain as one `Schema`, read from YAML, JSON or code.
 *
 * **Example** (Reading a chain)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect } from "effect"
 * import { ResilienceConfig } from "@llm-resilience/core"
 *
 * const config = await Effect.runPromise(
 *   ResilienceConfig.parse(`
 * fallback_chain:
 *   - provider: anthropic
 *     model: claude-3-opus
 *     priority: 1
 *     timeout: 30s
 * `)
 * )
 *
 * config.fallbackChain.length // => 1
 * Duration.toSeconds(config.fallbackChain[0].timeout ?? 0) // => 30
 * ```
 *
 * **Example** (Reading a mistake)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { ResilienceConfig } from "@llm-resilience/core"
 *
 * const error = await Effect.runPromise(
 *   Effect.flip(ResilienceConfig.parse(`
 * fallback_chain:
 *   - provider: anthropic
 *     model: claude-3-opus
 *     timeout: 30x
 * `))
 * )
 *
 * error.issues.map(ResilienceConfig.formatIssue)
 * // => ['fallback_chain[0].timeout: got "30x", expected a duration such as "30s" or "1500ms"']
 * ```
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"

const shorthand = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h)$/

const units = { ms: "millis", s: "seconds", m: "minutes", h: "hours" } as const

const parseDuration = (text: string): Duration.Duration | undefined => {
  const short = shorthand.exec(text.trim())
  const input = short === null ? text.trim() : `${short[1]} ${units[short[2] as keyof typeof units]}`
  const duration = Duration.fromInput(input as Duration.Input)
  return duration._tag === "Some" && Duration.isPositive(duration.value) && Duration.isFinite(duration.value)
    ? duration.value
    : undefined
}

/**
 * A positive duration written as `30s`, `1500ms`, `2m`, `1h`, or as Effect writes it (`30 seconds`).
 *
 * @category schemas
 * @since 0.1.0
 */
export const DurationText: Schema.Codec<Duration.Duration, string> = Schema.String.check(
  Schema.makeFilter((text: string) => parseDuration(text) !== undefined)
).pipe(
  Schema.decodeTo(
    Schema.Duration,
    SchemaTransformation.transform({
      decode: (text) => parseDuration(text) ?? Duration.zero,
      encode: (duration) => `${Duration.toMillis(duration)}ms`
    })
  )
)

const atLeast = (minimum: number) => Schema.makeFilter((n: number) => n >= minimum)
const isUrl = (text: string): boolean => Option.isSome(Schema.decodeOption(Schema.URLFromString)(text))
const Name = Schema.NonEmptyString
const Count = Schema.Int.check(atLeast(0))
const PositiveInt = Schema.Int.check(atLeast(1))

/**
 * One step of the chain.
 *
 * **Details**
 *
 * `id` defaults to the provider's name, with the model when several steps use the same provider. Steps are asked by rising
 * `priority`; without one, in the order in which they are written. `timeout` bounds a whole answer and the first token of a stream,
 * `idleTimeout` the silence between two tokens. Steps of equal priority share the load by `weight`. `healthCheck` switches the checks of this step
 * off. `maxConcurrent` is a bulkhead with `maxQueued` calls that wait for at most `maxWait`; the two rates are limits of your own. `degraded` marks a smaller model or one with shorter answers. `apiKeyEnv` names the variable that holds the key, never the key.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Step = Schema.Struct({
  provider: Name,
  model: Name,
  id: Schema.optionalKey(Name),
  priority: Schema.optionalKey(Count),
  timeout: Schema.optionalKey(DurationText),
  idleTimeout: Schema.optionalKey(DurationText),
  baseUrl: Schema.optionalKey(
    Schema.String.check(
      Schema.isPattern(/^https?:\/\/\S+$/),
      Schema.makeFilter((text: string) => isUrl(text))
    )
  ),
  apiKeyEnv: Schema.optionalKey(Schema.String.check(Schema.isPattern(/^[A-Z][A-Z0-9_]*$/))),
  maxOutputTokens: Schema.optionalKey(PositiveInt),
  temperature: Schema.optionalKey(Schema.Finite.check(atLeast(0))),
  contextWindow: Schema.optionalKey(PositiveInt),
  weight: Schema.optionalKey(Schema.Finite.check(Schema.makeFilter((n: number) => n > 0))),
  healthCheck: Schema.optionalKey(Schema.Literals(["on", "off"])),
  maxConcurrent: Schema.optionalKey(PositiveInt),
  maxQueued: Schema.optionalKey(Count),
  maxWait: Schema.optionalKey(DurationText),
  requestsPerMinute: Schema.optionalKey(PositiveInt),
  tokensPerMinute: Schema.optionalKey(PositiveInt),
  degraded: Schema.optionalKey(Schema.Literals(["smaller", "shorter"]))
}).pipe(
  Schema.encodeKeys({
    idleTimeout: "idle_timeout",
    baseUrl: "base_url",
    apiKeyEnv: "api_key_env",
    maxOutputTokens: "max_output_tokens",
    contextWindow: "context_window",
    healthCheck: "health_check",
    maxConcurrent: "max_concurrent",
    maxQueued: "max_queued",
    maxWait: "max_wait",
    requestsPerMinute: "requests_per_minute",
    tokensPerMinute: "tokens_per_minute"
  })
)

/**
 * One step of the chain.
 *
 * @category models
 * @since 0.1.0
 */
export type Step = typeof Step.Type

const RetrySection = Schema.Struct({
  retries: Schema.optionalKey(Count),
  base: Schema.optionalKey(DurationText),
  cap: Schema.optionalKey(DurationText),
  maxRetryAfter: Schema.optionalKey(DurationText)
}).pipe(Schema.encodeKeys({ maxRetryAfter: "max_retry_after" }))

const CircuitBreakerSection = Schema.Struct({
  failures: Schema.optionalKey(PositiveInt),
  openFor: Schema.optionalKey(DurationText),
  probes: Schema.optionalKey(PositiveInt),
  slowStart: Schema.optionalKey(DurationText)
}).pipe(Schema.encodeKeys({ openFor: "open_for", slowStart: "slow_start" }))

const CooldownSection = Schema.Struct({
  rest: Schema.optionalKey(DurationText),
  maxRest: Schema.optionalKey(DurationText),
  isolation: Schema.optionalKey(DurationText)
}).pipe(Schema.encodeKeys({ maxRest: "max_rest" }))

const Share = Schema.Finite.check(Schema.makeFilter((n: number) => n >= 0 && n <= 1))

const BudgetSection = Schema.Struct({ ratio: Schema.optionalKey(Share), floor: Schema.optionalKey(Count) })

const HedgeSection = Schema.Struct({
  after: Schema.optionalKey(DurationText),
  quantile: Schema.optionalKey(Schema.Finite.check(Schema.makeFilter((n: number) => n > 0 && n < 1))),
  minimum: Schema.optionalKey(DurationText),
  hedges: Schema.optionalKey(PositiveInt)
})

const RoutingSection = Schema.Struct({
  strategy: Schema.optionalKey(Schema.Literals(["ordered", "weighted", "least-latency", "least-busy", "cheapest"]))
})

const HealthSection = Schema.Struct({
  interval: Schema.optionalKey(DurationText),
  intervalWhenDown: Schema.optionalKey(DurationText),
  timeout: Schema.optionalKey(DurationText)
}).pipe(Schema.encodeKeys({ intervalWhenDown: "interval_when_down" }))

/**
 * The whole configuration. In files the keys are written in snake_case, in code in camelCase.
 *
 * @category schemas
 * @since 0.1.0
 */
export const ResilienceConfig = Schema.Struct({
  fallbackChain: Schema.NonEmptyArray(Step),
  deadline: Schema.optionalKey(DurationText),
  attempts: Schema.optionalKey(PositiveInt),
  retry: Schema.optionalKey(RetrySection),
  circuitBreaker: Schema.optionalKey(CircuitBreakerSection),
  cooldown: Schema.optionalKey(CooldownSection),
  budget: Schema.optionalKey(BudgetSection),
  hedge: Schema.optionalKey(HedgeSection),
  routing: Schema.optionalKey(RoutingSection),
  health: Schema.optionalKey(HealthSection)
}).pipe(Schema.encodeKeys({ fallbackChain: "fallback_chain", circuitBreaker: "circuit_breaker" }))

/**
 * The whole configuration.
 *
 * @category models
 * @since 0.1.0
 */
export type ResilienceConfig = typeof ResilienceConfig.Type

/**
 * One thing that is wrong with a configuration: where, what was found, what was expected, and what may have been meant.
 *
 * @category models
 * @since 0.1.0
 */
export interface Issue {
  readonly path: string
  readonly got: string
  readonly expected: string
  readonly suggestion?: string | undefined
}

const IssueSchema = Schema.Struct({
  path: Schema.String,
  got: Schema.String,
  expected: Schema.String,
  suggestion: Schema.optional(Schema.String)
})

/**
 * Says what is wrong in one line.
 *
 * @category formatting
 * @since 0.1.0
 */
export const formatIssue = (issue: Issue): string =>
  `${issue.path === "" ? "" : `${issue.path}: `}got ${issue.got}, expected ${issue.expected}${
    issue.suggestion === undefined ? "" : ` (did you mean "${issue.suggestion}"?)`
  }`

/**
 * Error raised when a configuration cannot be used. It lists everything that is wrong, not only the first.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConfigInvalid extends Schema.TaggedError<ConfigInvalid>(
  "@llm-resilience/core/ResilienceConfig/ConfigInvalid"
)("ConfigInvalid", { issues: Schema.Array(IssueSchema) }) {
  override get message(): string {
    return `The configuration is not valid:\n${this.issues.map((issue) => `  ${formatIssue(issue)}`).join("\n")}`
  }
}

/**
 * Reads a configuration from the text of a YAML or JSON file.
 *
 * @category constructors
 * @since 0.1.0
 */
export const parse = (text: string): Effect.Effect<ResilienceConfig, ConfigInvalid> =>
  Effect.flatMap(
    Effect.try({
      try: () => Yaml.parse(text),
      catch: (cause) =>
        new ConfigInvalid({
          issues: [
            { path: "", got: cause instanceof Error ? cause.message : "unreadable text", expected: "YAML or JSON" }
          ]
        })
    }),
    decode
  )

/**
 * Reads a configuration from plain data with the keys of the file.
 *
 * @category constructors
 * @since 0.1.0
 */
export const decode = (input: unknown): Effect.Effect<ResilienceConfig, ConfigInvalid> =>
  decodeUnknown(input).pipe(
    Effect.mapError((error) => new ConfigInvalid({ issues: issuesOf(error.issue, input) })),
    Effect.flatMap(check)
  )

const decodeUnknown = Schema.decodeUnknownEffect(ResilienceConfig, { errors: "all", onExcessProperty: "error" })

/**
 * Reads a configuration from whatever holds one: the text of a file, plain data with the keys of the file, or a configuration.
 *
 * @category constructors
 * @since 0.1.0
 */
export const from = (input: unknown): Effect.Effect<ResilienceConfig, ConfigInvalid> =>
  typeof input === "string" ? parse(input) : isConfig(input) ? check(input) : decode(input)

const isConfig = Schema.is(Schema.toType(ResilienceConfig))

/**
 * Returns the id of each step: its own, or the provider's name, or provider and model where that name occurs twice.
 *
 * @category accessors
 * @since 0.1.0
 */
export const stepIds = (config: ResilienceConfig): ReadonlyArray<string> =>
  config.fallbackChain.map(
    (step, index, all) =>
      step.id ??
      (all.some((other, at) => at !== index && other.id === undefined && other.provider === step.provider)
        ? `${step.provider}/${step.model}`
        : step.provider)
  )

/**
 * Checks what a schema cannot: that every step has an id of its own, that no setting stands alone which means nothing without another, and
 * that a provider which is down is checked at least as often as one that is well.
 *
 * @category guards
 * @since 0.1.0
 */
export const check = (config: ResilienceConfig): Effect.Effect<ResilienceConfig, ConfigInvalid> => {
  const ids = stepIds(config)
  const issues = config.fallbackChain.flatMap(({ maxConcurrent, maxQueued, maxWait }, index): ReadonlyArray<Issue> => {
    const at = `fallback_chain[${index}]`
    const id = ids[index]
    const before = ids.findIndex((other) => other === id)
    const alone = (key: string, got: string | undefined): ReadonlyArray<Issue> =>
      maxConcurrent !== undefined || got === undefined
        ? []
        : [{ path: `${at}.${key}`, got, expected: "max_concurrent beside it" }]
    return [
      ...(before === index
        ? []
        : [
            {
              path: `${at}.id`,
              got: `"${id}", which fallback_chain[${before}] has already`,
              expected: "an id that no other step has"
            }
          ]),
      ...alone("max_queued", maxQueued?.toString()),
      ...alone("max_wait", maxWait && quoted(maxWait))
    ]
  })
  const { interval = usualInterval, intervalWhenDown = interval } = config.health ?? {}
  const rarely: ReadonlyArray<Issue> = Duration.isLessThanOrEqualTo(intervalWhenDown, interval)
    ? []
    : [
        {
          path: "health.interval_when_down",
          got: quoted(intervalWhenDown),
          expected: `a duration no longer than interval, which is ${quoted(interval)}`
        }
      ]
  const all = [...issues, ...rarely]
  return all.length === 0 ? Effect.succeed(config) : Effect.fail(new ConfigInvalid({ issues: all }))
}

const quoted = (duration: Duration.Duration): string => `"${Duration.format(duration)}"`

// That of `HealthChecker`.
const usualInterval = Duration.seconds(30)

const aStep = "a step with provider and model"
const aDuration = 'a duration such as "30s" or "1500ms"'

// What is expected under each key of a file; the keys of each section are also what a misspelt one is compared with.
const sections: { readonly [section: string]: { readonly [key: string]: string } } = {
  "": {
    fallback_chain: "a list of at least one step with provider and model",
    deadline: aDuration,
    retry: "a section with retries, base, cap, max_retry_after",
    attempts: "a whole number of at least 1",
    circuit_breaker: "a section with failures, open_for, probes, slow_start",
    cooldown: "a section with rest, max_rest, isolation",
    budget: "a section with ratio, floor",
    hedge: "a section with after, quantile, minimum, hedges",
    routing: "a section with strategy",
    health: "a section with interval, interval_when_down, timeout"
  },
  fallback_chain: {
    provider: 'the name of a provider such as "anthropic"',
    model: 'the name of a model such as "claude-3-opus"',
    id: "a name that is unique in the chain",
    priority: "a whole number of at least 0",
    timeout: aDuration,
    idle_timeout: aDuration,
    base_url: 'a URL such as "https://api.openai.com/v1"',
    api_key_env: 'the name of an environment variable such as "ANTHROPIC_API_KEY"',
    max_output_tokens: "a whole number of at least 1",
    temperature: "a number of at least 0",
    context_window: "a whole number of tokens of at least 1",
    weight: "a number greater than 0",
    health_check: '"on" or "off"',
    max_concurrent: "a whole number of at least 1",
    max_queued: "a whole number of at least 0",
    max_wait: aDuration,
    requests_per_minute: "a whole number of at least 1",
    tokens_per_minute: "a whole number of at least 1",
    degraded: '"smaller" or "shorter"'
  },
  retry: { retries: "a whole number of at least 0", base: aDuration, cap: aDuration, max_retry_after: aDuration },
  circuit_breaker: {
    failures: "a whole number of at least 1",
    open_for: aDuration,
    probes: "a whole number of at least 1",
    slow_start: aDuration
  },
  budget: { ratio: "a number from 0 to 1", floor: "a whole number of at least 0" },
  hedge: {
    after: aDuration,
    quantile: "a number between 0 and 1",
    minimum: aDuration,
    hedges: "a whole number of at least 1"
  },
  routing: { strategy: "one of ordered, weighted, least-latency, least-busy, cheapest" },
  health: { interval: aDuration, interval_when_down: aDuration, timeout: aDuration },
  cooldown: { rest: aDuration, max_rest: aDuration, isolation: aDuration }
}

const classify = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => issue._tag,
  checkHook: () => "InvalidValue"
})

const issuesOf = (issue: SchemaIssue.Issue, input: unknown): ReadonlyArray<Issue> => {
  const seen = new Set<string>()
  return classify(issue).issues.flatMap(({ message, path = [] }): ReadonlyArray<Issue> => {
    const keys = path.map((segment): PropertyKey => (typeof segment === "object" ? segment.key : segment))
    const missing = message === "MissingKey"
    // An empty list lacks its first element; what is wrong is the list.
    const where = keys
      .slice(0, missing && typeof keys.at(-1) === "number" ? -1 : keys.length)
      .map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))
      .join("")
      .replace(/^\./, "")
    if (seen.has(where)) return []
    seen.add(where)
    const key = keys.findLast((key) => typeof key === "string") ?? ""
    const section = sections[keys.filter((key) => typeof key === "string").length > 1 ? String(keys[0]) : ""] ?? {}
    if (message === "UnexpectedKey") {
      const suggestion = closest(key, Object.keys(section))
      return [
        {
          path: where,
          got: "an unknown key",
          expected: `one of ${Object.keys(section).join(", ")}`,
          ...(suggestion === undefined ? {} : { suggestion })
        }
      ]
    }
    return [
      {
        path: where,
        got: missing ? "nothing" : key === "api_key_env" ? "something else" : shown(valueAt(input, keys)),
        expected:
          typeof keys.at(-1) === "number" && !missing
            ? aStep
            : (section[key] ?? "a section of keys, of which fallback_chain is required")
      }
    ]
  })
}

const valueAt = (input: unknown, keys: ReadonlyArray<PropertyKey>): unknown =>
  keys.reduce<unknown>((value, key) => (Predicate.hasProperty(value, key) ? value[key] : undefined), input)

/**
 * Shows a value of a configuration, briefly, and without what may be a secret that was typed in the wrong place.
 *
 * @category formatting
 * @since 0.1.0
 */
export const shown = (value: unknown): string => {
  const text = value === undefined ? "nothing" : JSON.stringify(value)
  const safe = text
    .replace(/[^/\s"]+@/g, "…@")
    .replace(/\?[^"\s]*/g, "?…")
    .replace(/\b(?:sk|gsk|xai|pk|key|AIza)[-_A-Za-z0-9]{6,}/g, "…")
    .replace(/[A-Za-z0-9_-]{32,}/g, "…")
  return safe.length > 60 ? `${safe.slice(0, 60)}…` : safe
}

/**
 * Returns the candidate that is spelt most like `word`, or `undefined` when none is close.
 *
 * @category formatting
 * @since 0.1.0
 */
export const closest = (word: string, candidates: ReadonlyArray<string>): string | undefined => {
  const ranked = candidates
    .map((candidate) => ({ candidate, distance: distance(word.toLowerCase(), candidate.toLowerCase()) }))
    .toSorted((left, right) => left.distance - right.distance)
  const best = ranked[0]
  return best !== undefined && best.distance <= Math.max(2, Math.floor(best.candidate.length / 3))
    ? best.candidate
    : undefined
}

// Levenshtein's distance, one row at a time.
const distance = (left: string, right: string): number => {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let i = 1; i <= left.length; i++) {
    const next = [i]
    for (let j = 1; j <= right.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1)
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[right.length] ?? 0
}

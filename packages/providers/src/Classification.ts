/**
 * Says what an answer that is not an answer means: the one place where status, headers and body of a provider become a
 * {@link ProviderError}.
 *
 * The status alone does not tell. A used-up quota comes as 429 (OpenAI), 400 (Anthropic), 402 or 403; a wrong key as 400 (xAI); a
 * prompt that is too long as 400, 413 or 500; an overload as 429, 503 or 529; and any of them as an error inside a 200. So the
 * codes and sentences of the body are looked at first, in the order of {@link rules}: the first rule that holds decides. What the
 * body leaves open, the status decides.
 *
 * Everything here is pure, bounded and suspicious: bodies are cut before they are searched, descriptions are short and without
 * what looks like a key, and a wait is never negative, infinite or longer than a month.
 *
 * **Example** (Telling a used-up quota from a rate limit)
 *
 * ```ts import.meta.vitest
 * import { ProviderError } from "@llm-resilience/core"
 * import { Classification } from "@llm-resilience/providers"
 *
 * const answer = { provider: "openai", status: 429, headers: {}, now: 0 }
 * const limited = Classification.classify({ ...answer, body: "Rate limit reached. Please try again in 1.5s." })
 * const broke = Classification.classify({ ...answer, body: JSON.stringify({ error: { code: "insufficient_quota" } }) })
 *
 * ProviderError.kind(limited) // => "RateLimited"
 * ProviderError.kind(broke) // => "QuotaExhausted"
 * ```
 *
 * @since 0.1.0
 */
import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Delays from "./internal/delays.ts"
import * as Facts from "./internal/facts.ts"

/**
 * An answer to be classified.
 *
 * **Details**
 *
 * `status` is that of the HTTP response, also when the error came inside a 200. `headers` have lower-case names. `body` is the body,
 * or the data of the event that carried the error. `now` is in milliseconds since the epoch and places the dates that a provider
 * sends. `elapsed` is how long the call took; it becomes the `after` of a `Timeout`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Input {
  readonly provider: string
  readonly status: number
  readonly headers: { readonly [name: string]: string | undefined }
  readonly body: string
  readonly now: number
  readonly elapsed?: Duration.Duration | undefined
}

/**
 * What a rule decides for.
 *
 * @category models
 * @since 0.1.0
 */
export type Verdict = ProviderError.Kind

/**
 * One row of the table of {@link rules}. It holds when each of its columns holds; an absent column always does.
 *
 * **Details**
 *
 * `statuses` looks at the status of the response or, inside a 200, at the one in the body, or at 0 when there is none. `codes` has to
 * match one of the machine-readable names in the body, `text` its sentences (both in lower case). `unlessAdvised` rules the row out
 * when the body says when to come back: whoever names a time describes a rate limit, not a bill.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  readonly verdict: Verdict
  readonly statuses?: ((status: number) => boolean) | undefined
  readonly codes?: RegExp | undefined
  readonly text?: RegExp | undefined
  readonly unlessAdvised?: true | undefined
}

const oneOf =
  (...statuses: ReadonlyArray<number>) =>
  (status: number): boolean =>
    statuses.includes(status)

// Long alternatives are written as several expressions, so that each line is about one thing.
const anyOf = (...expressions: ReadonlyArray<RegExp>): RegExp =>
  new RegExp(expressions.map((expression) => expression.source).join("|"))

// The statuses of a refusal for a reason, and 0 for an error inside a 200 that carries no number.
const refused = oneOf(0, 400, 401, 403, 404, 412, 413, 422, 451)
const refusedOrLimited = (status: number): boolean => refused(status) || status === 429

/**
 * The table that {@link classify} goes through from top to bottom. What no row knows is a `ServerError`.
 *
 * @category constants
 * @since 0.1.0
 */
export const rules: ReadonlyArray<Rule> = [
  // Money comes first: it hides behind every other status and code.
  { verdict: "QuotaExhausted", statuses: oneOf(402) },
  {
    verdict: "QuotaExhausted",
    codes:
      /insufficient_(?:user_)?(?:quota|balance|credits?|funds)|billing|spend(?:ing)?_limit|payment_required|credit_balance/
  },
  {
    verdict: "QuotaExhausted",
    statuses: refusedOrLimited,
    codes: /^(?:quota_exceeded|quota_exhausted|usage_limit_reached|budget_exceeded)$/,
    unlessAdvised: true
  },
  {
    verdict: "QuotaExhausted",
    statuses: refusedOrLimited,
    text: anyOf(
      /exceeded your current quota|credit balance is too low|payment required/,
      /(?:insufficient|not enough|out of|no) (?:account |call volume )?(?:credits?|balance|funds|quota)\b/,
      /(?:does ?n.t|do not|does not) have any credits|used all available credits/,
      /(?:spend|spending|billing|budget|credit|key) (?:hard )?limit (?:has been )?(?:reached|exceeded)|monthly spending limit/,
      /reached your specified (?:api )?usage limits?|budget has been exceeded/
    ),
    unlessAdvised: true
  },
  // AWS throttles by the day with the code of any throttling.
  {
    verdict: "QuotaExhausted",
    text: /too many (?:tokens|requests) per day|per[- ]day (?:token|request) (?:limit|quota)/
  },
  { verdict: "QuotaExhausted", codes: /(?:^|_)servicequotaexceededexception$/ },
  // Anthropic's monthly limit says when it ends, and Google names the quota of the day beside a delay of seconds.
  { verdict: "QuotaExhausted", text: /you will regain access on \d/ },
  { verdict: "QuotaExhausted", statuses: refusedOrLimited, codes: /^generate\w*perday/ },

  // Who is asking, and whether they may. These words come with the code of a permission, and are about the key all the same.
  {
    verdict: "Authentication",
    statuses: oneOf(0, 400, 401, 403),
    text: anyOf(
      /bearer token .{0,40}(?:expired|invalid)|authentication failed|invalid api key format/,
      /unregistered callers|api key (?:was|has been) (?:reported as )?(?:leaked|revoked|disabled)/
    )
  },
  {
    verdict: "PermissionDenied",
    codes: anyOf(
      /^organization_|^account_(?:on_hold|suspended|disabled|restricted)$/,
      /^permission_?(?:denied|error)$|^access_?denied$|unsupported_country|^request_forbidden$/,
      /(?:^|_)accessdenied(?:exception)?$|^service_disabled$|^api_key_service_blocked$|^consumer_suspended$/
    )
  },
  {
    verdict: "PermissionDenied",
    statuses: oneOf(0, 400, 401, 403),
    text: anyOf(
      /(?:organization|account|project|workspace) (?:has been|is) (?:disabled|deactivated|suspended|restricted|on hold)/,
      /insufficient permissions|missing scopes|only authorized for|organization must be verified/,
      /(?:location|country|region|territory) (?:is )?not supported|not available in your (?:country|region)/,
      /operation not allowed|don.?t have access to the model/
    )
  },
  {
    verdict: "Authentication",
    codes: anyOf(
      /^(?:invalid|incorrect|expired|revoked|missing)_(?:x_)?(?:api_key|authentication|credentials?|token)$/,
      /^api_key_(?:invalid|expired)$|^authentication_|^unauthenticated$|^unauthorized$|^account_deactivated$/,
      /(?:^|_)(?:unrecognizedclient|expiredtoken|missingauthenticationtoken|invalidsignature|signaturedoesnotmatch)/,
      /(?:^|_)(?:invalidclienttokenid|incompletesignature|invalidaccesskeyid|notauthorized)|^access_token_/
    )
  },
  {
    verdict: "Authentication",
    statuses: oneOf(0, 400, 401, 403),
    text: anyOf(
      /(?:incorrect|invalid|missing|expired|revoked|no|wrong) (?:x-)?api[- ]key/,
      /api[- ]key (?:not valid|not found|has expired|expired|is (?:invalid|expired|missing))/,
      /no auth credentials|authentication fail|security token .{0,40}(?:invalid|expired)/
    )
  },
  { verdict: "Authentication", statuses: oneOf(401, 407) },

  // What was asked, and of which model.
  {
    verdict: "ModelNotFound",
    codes: anyOf(
      /^(?:model|deployment)_?(?:not_?found|not_available|not_supported|decommissioned|deprecated|does_not_exist)/,
      /^(?:unknown|invalid|no_such)_model$/
    )
  },
  {
    verdict: "ContextLengthExceeded",
    codes: /context_(?:length|window|size)|^(?:prompt|input)_too_long$|max_prompt_tokens_exceeded/
  },
  {
    verdict: "ContextLengthExceeded",
    statuses: oneOf(0, 400, 413, 422, 500),
    text: anyOf(
      /context[- ](?:length|window|size|limit)|maximum (?:prompt|input|sequence|model) length|reduce the length of/,
      /(?:prompt|input|request|conversation) (?:is |was )?too long|too many (?:input |prompt )?tokens/,
      /(?:input|prompt) (?:length|tokens?|token count).{0,60} exceed|input.{0,20} tokens.{0,60} must be (?:<|less)/,
      /exceeds? the (?:model.?s? )?(?:maximum|max)(?: number)?(?: of)?(?: allowed)? (?:input |prompt |context )tokens/
    )
  },
  {
    verdict: "ContentPolicy",
    statuses: refused,
    codes:
      /content_?(?:filter|policy|moderation)|policy_violation|responsibleaipolicy|^moderation|safety|prohibited_content/
  },
  {
    verdict: "ContentPolicy",
    statuses: oneOf(0, 400, 403, 422, 451),
    text: anyOf(
      /content (?:management |filtering |moderation )?policy|content[- ]filter|(?:usage|acceptable use) (?:polic(?:y|ies)|guidelines?)/,
      /safety (?:system|filter|guideline)|(?:was|were|been) flagged|blocked by .{0,40}(?:policy|safety|moderation|filter)/
    )
  },
  {
    verdict: "ModelNotFound",
    statuses: refused,
    text: anyOf(
      /model:? \S{1,120} (?:does not exist|is not (?:found|available)|was not found|not found|not exist)/,
      /model:? \S{1,120} has been (?:deprecated|decommissioned|retired)|(?:unknown|no such|invalid) model\b/,
      /not a valid model|model identifier is invalid|\bmodels?\/\S{1,120} is not (?:found|supported)/,
      /on-demand throughput isn.?t supported|model version has reached the end of its life|publisher model .{1,200} not found/
    )
  },
  // Groq answers 400 when what the model wrote is neither a tool call nor JSON. The request is fine, the answer is not.
  { verdict: "InvalidResponse", codes: /^(?:tool_use|json_validate)_failed$/ },

  // Too much at once, or too slow: ours, theirs, or somebody's in between.
  {
    verdict: "Overloaded",
    codes: anyOf(
      /overload|server_busy|^service_unavailable$|provider_unavailable|capacity_exhausted/,
      /(?:^|_)(?:serviceunavailable|modelnotready)(?:exception)?$/
    )
  },
  { verdict: "Overloaded", statuses: oneOf(0, 429, 500, 503), text: /\boverloaded\b/ },
  { verdict: "RateLimited", statuses: oneOf(429) },
  {
    verdict: "RateLimited",
    codes: /rate_?limit|too_?many_?requests|throttl|^resource_exhausted$|ramp_limit|concurrency_limit/
  },
  { verdict: "RateLimited", statuses: oneOf(0), text: /rate[- ]limit|too many requests|quota exceeded/ },
  { verdict: "Overloaded", codes: /capacity/ },
  { verdict: "Overloaded", statuses: oneOf(0, 500), text: /\b(?:at|over|no) capacity\b/ },
  { verdict: "Timeout", statuses: oneOf(408, 504, 522, 524) },
  {
    verdict: "Timeout",
    statuses: (status) => status === 0 || status >= 500,
    codes: /^(?:request_|gateway_|upstream_|read_|model)?time(?:d_?)?_?out(?:_error|exception)?$|^deadline_exceeded$/
  },
  // A 503 that calls itself an internal error is one; any other says "not now". 498 is Groq's, 529 Anthropic's.
  { verdict: "ServerError", statuses: oneOf(503), codes: /^(?:api|server|internal|internal_server)_error$/ },
  { verdict: "Overloaded", statuses: oneOf(498, 503, 529) },
  // 424 is what a platform says when the model behind it failed; 409, 425 and 499 are about this attempt, not about what was asked.
  { verdict: "ServerError", statuses: (status) => status >= 500 || [409, 424, 425, 499].includes(status) },

  // The rest of the refusals, by status and, inside a 200, by code.
  { verdict: "ModelNotFound", statuses: oneOf(404, 405, 410) },
  { verdict: "ModelNotFound", statuses: oneOf(0), codes: /^not_?found|(?:^|_)resourcenotfoundexception$/ },
  { verdict: "PermissionDenied", statuses: oneOf(403, 451) },
  { verdict: "PermissionDenied", statuses: oneOf(0), codes: /permission|forbidden/ },
  { verdict: "InvalidRequest", statuses: (status) => status >= 400 },
  {
    verdict: "InvalidRequest",
    statuses: oneOf(0),
    codes: anyOf(
      /invalid_request|invalid_argument|bad_?request|too_large|unprocessable|(?:^|_)validationexception$/,
      /^invalid_(?:prompt|image|base64|type|value)|^image_(?:too_|parse_|file_)|^(?:empty_image|failed_to_download_image)/
    )
  },
  // No provider redirects a completion: a login page or a moved gateway does.
  { verdict: "InvalidResponse", statuses: (status) => status >= 300 }
]

/**
 * Says what an unsuccessful answer, or an error inside a successful one, means.
 *
 * @category constructors
 * @since 0.1.0
 */
export const classify = (input: Input): ProviderError.ProviderError => {
  const facts = Facts.of(input.body, input.headers["x-amzn-errortype"])
  const advised =
    (facts.retryDelay === undefined ? undefined : Delays.parseDuration(facts.retryDelay)) ??
    Delays.fromText(facts.text, input.now)
  const status = input.status < 300 ? (facts.status ?? 0) : input.status
  const verdict = rules.find((rule) => holds(rule, status, facts, advised !== undefined))?.verdict ?? "ServerError"
  const limits = Delays.limits(input.headers, input.now)
  const retryAfter =
    Delays.fromHeaders(input.headers, input.now) ??
    advised ??
    (verdict === "RateLimited" ? Delays.untilReset(limits) : undefined)
  const requestId = identifier(requestIdOf(input.headers) ?? facts.requestId)
  const shouldRetry = shouldRetryOf(input.headers, verdict, facts)
  const common = {
    provider: input.provider,
    description: describe(facts.message ?? `The provider answered with status ${input.status}`),
    ...(requestId === undefined ? undefined : { requestId }),
    ...(shouldRetry === undefined ? undefined : { shouldRetry })
  }
  switch (verdict) {
    case "Timeout":
      return new ProviderError.Timeout({
        provider: input.provider,
        kind: status === 522 ? "connect" : "attempt",
        after: input.elapsed ?? Duration.zero
      })
    case "RateLimited": {
      const limit = limitOf(facts)
      return new ProviderError.RateLimited({
        ...common,
        retryAfter: Option.fromUndefinedOr(retryAfter),
        ...(limit === undefined ? undefined : { limit })
      })
    }
    default:
      return new ProviderError.APIError({
        ...common,
        reason: verdict,
        status: status === 0 ? input.status : status,
        ...(retryAfter === undefined ? undefined : { retryAfter })
      })
  }
}

const holds = (rule: Rule, status: number, facts: Facts.Facts, advised: boolean): boolean =>
  (rule.statuses === undefined || rule.statuses(status)) &&
  (rule.codes === undefined || facts.codes.some((code) => rule.codes?.test(code))) &&
  (rule.text === undefined || rule.text.test(facts.text)) &&
  !(rule.unlessAdvised === true && advised)

const shouldRetryOf = (headers: Input["headers"], verdict: Verdict, facts: Facts.Facts): boolean | undefined => {
  const header = headers["x-should-retry"]
  if (header === "true") return true
  // OpenAI's 429 for one request that is above the whole limit: no wait on this account cures it.
  if (header === "false" || (verdict === "RateLimited" && facts.text.includes("request too large"))) return false
  return undefined
}

const limitOf = (facts: Facts.Facts): ProviderError.RateLimited["limit"] => {
  if (/concurren|simultaneous/.test(facts.text)) return "concurrency"
  if (facts.codes.includes("tokens") || /tokens? (?:per|rate)|\btp[md]\b|token rate limit/.test(facts.text))
    return "tokens"
  if (facts.codes.includes("requests") || /requests? (?:per|rate)|\brp[md]\b|call rate limit/.test(facts.text))
    return "requests"
  return undefined
}

const requestIdOf = (headers: Input["headers"]): string | undefined =>
  headers["x-request-id"] ?? headers["request-id"] ?? headers["apim-request-id"] ?? headers["x-amzn-requestid"]

const identifier = (value: string | undefined): string | undefined =>
  value === undefined || value === "" ? undefined : describe(value).slice(0, 128)

/**
 * Reads the id that a provider's support desk asks for (`x-request-id`, `request-id`, `apim-request-id`, `x-amzn-requestid`).
 *
 * @category accessors
 * @since 0.1.0
 */
export const requestId = (headers: Input["headers"]): string | undefined => identifier(requestIdOf(headers))

/**
 * Reads the limits that a provider reports with an answer (`x-ratelimit-*`, `anthropic-ratelimit-*`).
 *
 * **Details**
 *
 * A reset may be a duration (`6m0s`, `120ms`), a number of seconds, or a point in time, which `now` places.
 *
 * @category accessors
 * @since 0.1.0
 */
export const limits = (headers: Input["headers"], now: number): LlmResponse.Limits | undefined =>
  Delays.limits(headers, now)

/**
 * Makes a text from a provider fit for an error: on one line, at most 300 characters, without what looks like a key.
 *
 * @category accessors
 * @since 0.1.0
 */
export const describe = (text: string): string => {
  const line = text.slice(0, 2000).replace(unprintable, " ").replace(/\s+/g, " ").trim().replace(keyLike, "<redacted>")
  return line.length <= maxDescription ? line : `${line.slice(0, maxDescription - 1)}…`
}

const maxDescription = 300
const unprintable = /[\p{Cc}\p{Cf}]+/gu
const keyLike =
  /\b(?:sk|pk|rk|gsk|xai|nvapi|hf|AIza|ABSK|bedrock-api-key|ya29)[-_.]?[A-Za-z0-9][A-Za-z0-9_-]{15,}|\b[Bb]earer [A-Za-z0-9._~+/-]{8,}=*/g

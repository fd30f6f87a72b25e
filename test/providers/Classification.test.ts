import { assert, describe, it } from "@effect/vitest"
import { ProviderError } from "@llm-resilience/core"
import { Classification } from "@llm-resilience/providers"
import { Duration, Effect, Schema } from "effect"

const now = Date.UTC(2026, 0, 1)

const classify = (status: number, body: unknown = "", headers: { readonly [name: string]: string } = {}) =>
  Classification.classify({
    provider: "primary",
    status,
    headers,
    body: typeof body === "string" ? body : JSON.stringify(body),
    now
  })

const kind = (status: number, body: unknown = "", headers: { readonly [name: string]: string } = {}) =>
  ProviderError.kind(classify(status, body, headers))

const waitMillis = (error: ProviderError.ProviderError) => {
  const after = ProviderError.retryAfter(error)
  return after === undefined ? undefined : Duration.toMillis(after)
}

const openai = (message: string, code: string | number | null = null, type = "invalid_request_error") => ({
  error: { message, type, param: null, code }
})

const anthropic = (type: string, message: string, details?: object) => ({
  type: "error",
  error: { type, message, ...(details === undefined ? {} : { details }) }
})

const google = (quotaId: string) => ({
  error: {
    code: 429,
    message: "You exceeded your current quota",
    status: "RESOURCE_EXHAUSTED",
    details: [{ violations: [{ quotaId }] }, { retryDelay: "40s" }]
  }
})

const aws = (type: string, message: string): readonly [object, { readonly [name: string]: string }] => [
  { message },
  { "x-amzn-errortype": `${type}:http://internal.amazon.com/coral/` }
]

const gemini = (code: number, status: string, message: string, reason?: string) => ({
  error: { code, status, message, ...(reason === undefined ? undefined : { details: [{ reason }] }) }
})

describe("Classification", () => {
  it.each([
    [400, ...aws("ValidationException", "The provided model identifier is invalid."), "ModelNotFound"],
    [400, ...aws("ValidationException", "Input is too long for requested model."), "ContextLengthExceeded"],
    [400, ...aws("ValidationException", "Malformed input request, please reformat your input."), "InvalidRequest"],
    [
      400,
      ...aws("ValidationException", "Invocation of model ID x with on-demand throughput isn\u2019t supported."),
      "ModelNotFound"
    ],
    [400, ...aws("ServiceQuotaExceededException", "Your request exceeds the service quota."), "QuotaExhausted"],
    [
      403,
      ...aws("AccessDeniedException", "User is not authorized to perform: bedrock:InvokeModel"),
      "PermissionDenied"
    ],
    [403, ...aws("AccessDeniedException", "Bearer Token has expired"), "Authentication"],
    [403, ...aws("UnrecognizedClientException", "The security token is invalid."), "Authentication"],
    [403, ...aws("ExpiredTokenException", "The security token is expired"), "Authentication"],
    [403, ...aws("InvalidSignatureException", "The signature does not match"), "Authentication"],
    [404, ...aws("ResourceNotFoundException", "Not there."), "ModelNotFound"],
    [408, ...aws("ModelTimeoutException", "Too slow."), "Timeout"],
    [424, ...aws("ModelErrorException", "The model failed."), "ServerError"],
    [429, ...aws("ThrottlingException", "Too many requests, please wait."), "RateLimited"],
    [429, ...aws("ThrottlingException", "Too many tokens per day, please wait."), "QuotaExhausted"],
    [429, ...aws("ModelNotReadyException", "The model is not ready."), "Overloaded"],
    [500, ...aws("InternalServerException", "Try again."), "ServerError"],
    [503, ...aws("ServiceUnavailableException", "Not now."), "Overloaded"]
  ] as const)("knows Bedrock: %s %j %j", (status, body, headers, expected) => {
    assert.strictEqual(kind(status, body, headers), expected)
  })

  it.each([
    [400, gemini(400, "INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID"), "Authentication"],
    [400, gemini(400, "INVALID_ARGUMENT", "The temperature is out of range."), "InvalidRequest"],
    [
      400,
      gemini(400, "INVALID_ARGUMENT", "The input token count (2000000) exceeds the maximum number of tokens allowed"),
      "ContextLengthExceeded"
    ],
    [400, gemini(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), "PermissionDenied"],
    [401, gemini(401, "UNAUTHENTICATED", "Invalid credentials.", "ACCESS_TOKEN_EXPIRED"), "Authentication"],
    [403, gemini(403, "PERMISSION_DENIED", "The API is disabled.", "SERVICE_DISABLED"), "PermissionDenied"],
    [403, gemini(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), "Authentication"],
    [403, gemini(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers."), "Authentication"],
    [404, gemini(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1beta"), "ModelNotFound"],
    [429, gemini(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."), "RateLimited"],
    [499, gemini(499, "CANCELLED", "The operation was cancelled."), "ServerError"],
    [500, gemini(500, "INTERNAL", "An internal error has occurred."), "ServerError"],
    [503, gemini(503, "UNAVAILABLE", "No capacity available.", "MODEL_CAPACITY_EXHAUSTED"), "Overloaded"],
    [504, gemini(504, "DEADLINE_EXCEEDED", "Too slow."), "Timeout"]
  ] as const)("knows Gemini: %s %j", (status, body, expected) => {
    assert.strictEqual(kind(status, body), expected)
  })

  describe("by status alone", () => {
    it.each([
      [307, "InvalidResponse"],
      [400, "InvalidRequest"],
      [401, "Authentication"],
      [402, "QuotaExhausted"],
      [403, "PermissionDenied"],
      [404, "ModelNotFound"],
      [407, "Authentication"],
      [408, "Timeout"],
      [413, "InvalidRequest"],
      [422, "InvalidRequest"],
      [424, "ServerError"],
      [429, "RateLimited"],
      [498, "Overloaded"],
      [500, "ServerError"],
      [502, "ServerError"],
      [503, "Overloaded"],
      [504, "Timeout"],
      [520, "ServerError"],
      [524, "Timeout"],
      [529, "Overloaded"]
    ] as const)("%i is %s", (status, expected) => {
      assert.strictEqual(kind(status), expected)
    })
  })

  describe("by what the body says", () => {
    it.each([
      // The same status, another meaning.
      ["a used-up quota", 429, openai("Check your plan", "insufficient_quota"), "QuotaExhausted"],
      [
        "a balance that is too low",
        400,
        anthropic("invalid_request_error", "Your credit balance is too low"),
        "QuotaExhausted"
      ],
      [
        "a spend limit",
        429,
        anthropic("rate_limit_error", "…", { error_code: "team_spend_limit_reached" }),
        "QuotaExhausted"
      ],
      [
        "a team without credits",
        403,
        { code: "x", error: "Your team doesn't have any credits yet." },
        "QuotaExhausted"
      ],
      ["the quota of a day", 429, google("GenerateRequestsPerDayPerProject"), "QuotaExhausted"],
      ["the quota of a minute", 429, google("GenerateRequestsPerMinutePerProject"), "RateLimited"],
      ["a limit that names a time", 429, openai("You exceeded your current quota. Retry in 30s.", 429), "RateLimited"],
      [
        "a limit with an advertisement",
        429,
        openai("Limit 100. Upgrade at https://x.example/settings/billing"),
        "RateLimited"
      ],
      [
        "a wrong key under 400",
        400,
        { code: "invalid-argument", error: "Incorrect API key provided." },
        "Authentication"
      ],
      [
        "missing scopes under 401",
        401,
        openai("You have insufficient permissions. Missing scopes: x"),
        "PermissionDenied"
      ],
      [
        "a disabled organization",
        400,
        anthropic("invalid_request_error", "This organization has been disabled."),
        "PermissionDenied"
      ],
      [
        "a long prompt",
        400,
        anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
        "ContextLengthExceeded"
      ],
      ["a long prompt under 413", 413, "Request exceeds the context window", "ContextLengthExceeded"],
      [
        "a long prompt under 500",
        500,
        { error: "the request exceeds the available context size" },
        "ContextLengthExceeded"
      ],
      [
        "a long id",
        400,
        openai("Invalid 'messages[1].tool_calls[0].id': string too long.", "string_above_max_length"),
        "InvalidRequest"
      ],
      ["too many tokens a minute", 429, { message: "Too many tokens, please wait." }, "RateLimited"],
      [
        "a filter",
        400,
        { error: { code: "content_filter", innererror: { code: "ResponsibleAIPolicyViolation" } } },
        "ContentPolicy"
      ],
      [
        "moderation by a gateway",
        403,
        { error: { code: 403, message: "Your input was flagged for: violence" } },
        "ContentPolicy"
      ],
      ["an unknown model under 400", 400, openai("acme/foo is not a valid model ID", 400), "ModelNotFound"],
      ["a model of a local server", 404, { error: "model 'foo' not found, try pulling it first" }, "ModelNotFound"],
      [
        "a forbidden model",
        403,
        openai("Project does not have access to model foo", "model_not_found"),
        "ModelNotFound"
      ],
      [
        "a request too large for a tier",
        413,
        openai("Request too large for model", "rate_limit_exceeded", "tokens"),
        "RateLimited"
      ],
      ["an overload as a limit", 429, openai("Try later", null, "engine_overloaded_error"), "Overloaded"],
      ["an overload as a server error", 500, { error: "The model is overloaded" }, "Overloaded"],
      ["an internal error as 503", 503, anthropic("api_error", "Internal"), "ServerError"],
      [
        "a starting server",
        503,
        { error: { code: 503, message: "Loading model", type: "unavailable_error" } },
        "Overloaded"
      ],
      ["a model that wrote nonsense", 400, openai("Failed to call a function", "tool_use_failed"), "InvalidResponse"],
      [
        "a list of problems",
        422,
        { detail: [{ loc: ["body"], msg: "field required", type: "missing" }] },
        "InvalidRequest"
      ],
      [
        "JSON in a message",
        400,
        openai('Upstream said: {"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}', null),
        "RateLimited"
      ],
      ["a list with an error", 400, [{ error: { code: 400, message: "API key not valid." } }], "Authentication"]
    ] as const)("%s", (_, status, body, expected) => {
      assert.strictEqual(kind(status, body), expected)
    })

    it.each([
      ["a number inside", openai("x", 502, "x"), "ServerError"],
      ["another number inside", openai("x", 429, "x"), "RateLimited"],
      ["Anthropic's overload", anthropic("overloaded_error", "Overloaded"), "Overloaded"],
      ["Anthropic's server error", anthropic("api_error", "Internal server error"), "ServerError"],
      ["Anthropic's timeout", anthropic("timeout_error", "Request timed out"), "Timeout"],
      ["an invalid request", openai("x"), "InvalidRequest"],
      ["an error of vLLM", { object: "error", message: "x", type: "BadRequestError", code: 400 }, "InvalidRequest"],
      ["an error without anything", { error: {} }, "ServerError"],
      ["a sentence", "The request exceeded the rate limit", "RateLimited"]
    ] as const)("an error inside a 200: %s", (_, body, expected) => {
      assert.strictEqual(kind(200, body), expected)
    })

    it("keeps the status of the answer, and that inside of a 200", () => {
      const outer = classify(500, openai("x", 429))
      const inner = classify(200, openai("x", 503))

      assert.deepInclude(outer, { _tag: "APIError", status: 500 })
      assert.deepInclude(inner, { _tag: "APIError", status: 503 })
    })
  })

  describe("what it keeps of the body", () => {
    it("describes the error by the sentence that says most", () => {
      const error = classify(502, {
        error: { message: "Provider returned error", metadata: { raw: "upstream connect error: connection refused" } }
      })

      assert.deepInclude(error, { description: "upstream connect error: connection refused" })
    })

    it("describes a page by its title", () => {
      const error = classify(
        502,
        "<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head><body>…</body></html>"
      )

      assert.deepInclude(error, { description: "502 Bad Gateway" })
    })

    it("describes nothing by the status", () => {
      assert.deepInclude(classify(500), { description: "The provider answered with status 500" })
    })

    it("is short, on one line and without keys", () => {
      const error = classify(400, openai(`Key sk-abcdefghijklmnopqrstuvwx\n\u0000${"is bad ".repeat(1000)}`))

      assert(error._tag === "APIError")
      assert.isAtMost(error.description.length, 300)
      assert.match(error.description, /^Key <redacted> is bad /)
    })

    it("says which limit was hit, and that no wait cures a request above it", () => {
      const error = classify(
        429,
        openai("Request too large for m on tokens per min (TPM): Limit 1", "rate_limit_exceeded", "tokens")
      )

      assert.deepInclude(error, { _tag: "RateLimited", limit: "tokens", shouldRetry: false })
      assert.deepInclude(classify(429, openai("Too many concurrent requests")), { limit: "concurrency" })
      assert.deepInclude(classify(429, openai("Limit 3 requests per min")), { limit: "requests" })
    })

    it("keeps the id of the request and the advice to retry", () => {
      const error = classify(500, "", { "x-request-id": "req_1", "x-should-retry": "false" })

      assert.deepInclude(error, { requestId: "req_1", shouldRetry: false })
      assert.deepInclude(classify(500, { ...anthropic("api_error", "x"), request_id: "req_2" }), { requestId: "req_2" })
    })
  })

  describe("how long to wait", () => {
    it.each([
      ["seconds", { "retry-after": "12" }, 12_000],
      ["fractions of seconds", { "retry-after": "0.5" }, 500],
      ["a date", { "retry-after": "Thu, 01 Jan 2026 00:00:30 GMT" }, 30_000],
      ["a date that is past", { "retry-after": "Thu, 01 Jan 2015 00:00:30 GMT" }, undefined],
      ["milliseconds", { "retry-after-ms": "250", "retry-after": "1" }, 250],
      ["no milliseconds, as Azure sends", { "retry-after-ms": "0", "retry-after": "1" }, 1000],
      ["milliseconds that are none", { "retry-after-ms": "NaN", "retry-after": "1" }, 1000],
      ["nothing", { "retry-after": "0" }, undefined],
      ["a negative number", { "retry-after": "-5" }, undefined],
      ["infinity", { "retry-after": "Infinity" }, undefined],
      ["rubbish", { "retry-after": "soon" }, undefined],
      ["more than anybody waits", { "retry-after": "99999999999" }, 31 * 24 * 3_600_000],
      ["a limit that is used up", { "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s" }, 360_000],
      ["a limit that is not", { "x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s" }, undefined]
    ] as const)("%s", (_, headers, expected) => {
      assert.strictEqual(waitMillis(classify(429, "", headers)), expected)
    })

    it.each([
      ["Please try again in 18.642s. Visit us.", 18_642],
      ["Please try again in 1m2s.", 62_000],
      ["please TRY AGAIN in 120ms", 120],
      ["Please retry after 6 seconds.", 6000],
      ["Please wait 2 minutes before trying again", 120_000],
      ["Try again in a moment", undefined],
      ["It failed after 3 retries", undefined]
    ] as const)("in the sentence %o", (sentence, expected) => {
      assert.strictEqual(waitMillis(classify(429, openai(sentence))), expected)
    })

    it("in the details of a body that passed through a gateway", () => {
      const inner = { error: { code: 429, message: "Slow down", details: [{ retryDelay: "34s" }] } }

      assert.strictEqual(waitMillis(classify(429, openai(JSON.stringify(inner)))), 34_000)
    })

    it("until the day on which a quota is filled again", () => {
      const error = classify(400, openai("You will regain access on 2026-01-02 at 00:00 UTC."))

      assert.strictEqual(ProviderError.kind(error), "QuotaExhausted")
      assert.strictEqual(waitMillis(error), 24 * 3_600_000)
    })

    it("goes with an overload as well", () => {
      assert.strictEqual(waitMillis(classify(503, "", { "retry-after": "3" })), 3000)
    })
  })

  describe("limits", () => {
    it("reads OpenAI's durations", () => {
      const limits = Classification.limits(
        {
          "x-ratelimit-limit-requests": "500",
          "x-ratelimit-remaining-requests": "499",
          "x-ratelimit-reset-requests": "120ms",
          "x-ratelimit-reset-tokens": "1h6m0.5s"
        },
        now
      )

      assert.deepStrictEqual(limits, {
        requests: { limit: 500, remaining: 499, reset: Duration.millis(120) },
        tokens: { reset: Duration.millis(3_960_500) }
      })
    })

    it("reads Anthropic's dates", () => {
      const limits = Classification.limits(
        {
          "anthropic-ratelimit-input-tokens-limit": "1000",
          "anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:01:00Z"
        },
        now
      )

      assert.deepStrictEqual(limits, { inputTokens: { limit: 1000, remaining: 0, reset: Duration.minutes(1) } })
    })

    it("leaves out what cannot be read", () => {
      assert.isUndefined(
        Classification.limits({ "x-ratelimit-limit-requests": "many", "x-ratelimit-reset-tokens": "-1s" }, now)
      )
    })
  })

  it.effect.prop(
    "gives an error with sound fields for every answer",
    {
      status: Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 999 })),
      body: Schema.Union([Schema.String, Schema.Json.pipe(Schema.fromJsonString)]),
      json: Schema.Json,
      header: Schema.String
    },
    ({ body, header, json, status }) =>
      Effect.sync(() => {
        for (const text of [
          typeof body === "string" ? body : JSON.stringify(body),
          JSON.stringify({ error: json, code: json })
        ]) {
          const error = Classification.classify({
            provider: "primary",
            status,
            headers: {
              "retry-after": header,
              "retry-after-ms": header,
              "x-ratelimit-reset-tokens": header,
              "x-request-id": header
            },
            body: text,
            now
          })

          assert.isTrue(ProviderError.isProviderError(error))
          const after = ProviderError.retryAfter(error)
          if (after !== undefined) {
            assert.isTrue(Duration.isFinite(after) && Duration.isPositive(after))
          }
          if (error._tag !== "Timeout") assert.isAtMost(error.description?.length ?? 0, 300)
        }
      })
  )

  it("looks at huge and hostile bodies only so far", () => {
    const bodies = [
      "{".repeat(1e6),
      "[".repeat(1e6),
      `{"error":${'{"error":'.repeat(5000)}`,
      "try again in ".repeat(1e5),
      "<".repeat(1e6)
    ]

    for (const body of bodies) assert.strictEqual(kind(500, body), "ServerError")
  })
})

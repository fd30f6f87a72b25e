/**
 * Builds an error without capturing a stack trace.
 *
 * A rejection (open circuit, full queue, nobody available) is an answer, not a bug: it is built thousands of times per
 * second while a provider is down, and the trace costs six times the rest of the error. `Error.stackTraceLimit` is the
 * only switch JavaScript engines offer; where it does not exist the property is ignored.
 */
export const stackless = <E>(build: () => E): E => {
  const host = Error as unknown as { stackTraceLimit: number }
  const limit = host.stackTraceLimit
  host.stackTraceLimit = 0
  try {
    return build()
  } finally {
    host.stackTraceLimit = limit
  }
}

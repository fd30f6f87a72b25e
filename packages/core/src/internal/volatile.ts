/** Words whose answers change with the hour, in the languages that users are likely to ask in. Too many cost a hit, too few a wrong answer. */
const words = new RegExp(
  `(?<![\\p{L}\\p{N}])(?:${[
    "today(?:'s)?|tonight|tomorrow|yesterday|now|nowadays|current(?:ly)?|latest|newest|recent(?:ly)?|upcoming|ongoing",
    "(?:this|last|next) (?:second|minute|hour|morning|afternoon|evening|night|week(?:end)?|month|quarter|season|year)",
    "prices?|pricing|costs?|how much (?:is|are|does|do)|cheapest|exchange rates?|interest rates?|stocks?|share price|account balance",
    "weather|forecasts?|temperature outside|traffic|news|headlines|scores?|standings|trending|breaking|what time|what day|what date",
    "so far|up to date|as of|in stock|order status|status of my",
    "heute|gestern|jetzt|aktuell\\p{L}*|derzeit\\p{L}*|neueste\\p{L}*|preise?|kosten|kostet|wetter|nachrichten",
    "aujourd'hui|demain|maintenant|actuel\\p{L}*|derniers?|dernières?|prix|météo|actualités",
    "hoy|mañana|ayer|ahora|actual(?:es|mente)|últim[oa]s?|precios?|noticias",
    "oggi|domani|ieri|adesso|attual\\p{L}*|ultim[oaie]|prezz[oi]|meteo|notizie|hoje|amanhã|ontem|agora|atual|preços?"
  ].join("|")})(?![\\p{L}\\p{N}])`,
  "iu"
)

export const isVolatile = (question: string): boolean => words.test(question.normalize("NFKC").replaceAll("’", "'"))

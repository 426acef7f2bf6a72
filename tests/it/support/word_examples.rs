//! Texts of many scripts, and the queries that find them. Recall and search are tested with the
//! same examples, on each store.

/// A text and its queries.
pub struct WordExample {
    pub name: &'static str,
    pub text: &'static str,
    pub found: &'static [&'static str],
    /// Neither search nor recall finds the text by these.
    pub missed: &'static [&'static str],
    /// Search does not find the text by these. Recall may, because a part of them occurs.
    pub missed_by_search: &'static [&'static str],
}

const fn example(
    name: &'static str,
    text: &'static str,
    found: &'static [&'static str],
    missed: &'static [&'static str],
) -> WordExample {
    WordExample { name, text, found, missed, missed_by_search: &[] }
}

const fn partly(
    name: &'static str,
    text: &'static str,
    missed_by_search: &'static [&'static str],
) -> WordExample {
    WordExample { name, text, found: &[], missed: &[], missed_by_search }
}

pub const WORD_EXAMPLES: &[WordExample] = &[
    // Chinese and Japanese.
    example(
        "chinese",
        "我们昨天讨论了聊天记录记忆断裂问题的修复方案",
        &["记忆断裂", "聊天记录", "方案", "我们", "断", "案", "我", "聊天 方案"],
        &["裂断", "国", "案方"],
    ),
    example("chinese order", "中国很大", &["中国", "很大"], &["国中", "大很"]),
    example("chinese punctuation", "你好，世界！（测试）", &["世界", "你好", "测试"], &["好世"]),
    partly("chinese adjacency", "东京和京都", &["东京都", "京东京"]),
    example("rare han", "𠮷野家で食べた", &["𠮷野家", "𠮷"], &["吉"]),
    example(
        "glued",
        "修改youer服务端的计划，重跑gen-itgc后",
        &["youer", "gen-itgc", "itgc", "服务端", "计划"],
        &["our", "改服"],
    ),
    example("digits in han", "第3章と第12節", &["第3章", "3", "12", "章", "第12節"], &["2"]),
    example(
        "japanese",
        "東京タワーの近くで寿司を食べました",
        &["寿司", "タワー", "東京"],
        &["司寿", "京東"],
    ),
    example("half-width kana", "ｶﾞｲﾄﾞとﾀﾜｰ", &["ガイド", "タワー", "ｶﾞｲﾄﾞ"], &["カイト"]),
    example("decomposed kana", "か\u{3099}っこう", &["がっこう", "が"], &["かっ"]),
    example(
        "glued product",
        "iPhone15を買った",
        &["iphone15", "iPhone15", "買った"],
        &["iphone16"],
    ),
    example("full-width", "ＡＢＣ１２３ ｘｙｚ", &["abc123", "XYZ"], &["bc"]),
    // Korean.
    example(
        "korean",
        "서울에서 친구를 만났다",
        &["서울", "친구", "만났다", "서울에서", "\u{1109}\u{1165}\u{110b}\u{116e}\u{11af}"],
        &["울서", "구친"],
    ),
    example(
        "decomposed korean",
        "\u{1109}\u{1165}\u{110b}\u{116e}\u{11af}은 크다",
        &["서울", "서울은", "울"],
        &["서은"],
    ),
    example(
        "korean compound",
        "데이터베이스를 옮겼다",
        &["베이스", "데이터베이스", "데이터"],
        &["스베"],
    ),
    example("korean and latin", "Rust로 작성한 서버", &["rust", "서버", "로"], &["ust", "버서"]),
    // Southeast Asia.
    example(
        "thai",
        "เมื่อวานเราคุยเรื่องการย้ายฐานข้อมูลไปยังเซิร์ฟเวอร์ใหม่",
        &["ฐานข้อมูล", "เซิร์ฟเวอร์", "เมื่อวาน", "ข้อมูล", "ใหม่"],
        &["ขอ", "ไหม"],
    ),
    partly("thai tones", "ใหม่ไม่ไหม้", &["ไหม่", "ไม้"]),
    example("thai am", "ดื่มน้ำเย็น", &["น้ำ", "น\u{e4d}\u{e49}า", "น้ำเย็น"], &["นา"]),
    example("lao", "ພວກເຮົາກິນເຂົ້າໜຽວ", &["ເຂົ້າ", "ກິນ", "ໜຽວ", "ຫນຽວ"], &["ກນ"]),
    example("khmer", "យើងបាននិយាយអំពីមូលដ្ឋានទិន្នន័យ", &["ទិន្នន័យ", "មូលដ្ឋាន", "និយាយ"], &["ទន"]),
    example(
        "khmer with zero-width spaces",
        "ខ្ញុំ\u{200b}ស្រលាញ់\u{200b}ភាសា\u{200b}ខ្មែរ",
        &["ភាសាខ្មែរ", "ភាសា", "ខ្មែរ", "ភាសា\u{200b}ខ្មែរ"],
        &["ខសា"],
    ),
    example("burmese", "ကျွန်ုပ်တို့ဒေတာဘေ့စ်အကြောင်းပြောခဲ့သည်", &["ဒေတာ", "ဒေတာဘေ့စ်", "အကြောင်း"], &["တာဒေ"]),
    example("tibetan", "བོད་ཡིག་སྦྱོང་བ།", &["བོད་ཡིག", "ཡིག", "སྦྱོང"], &["ཀ"]),
    // South Asia: vowel signs are not accents.
    example("hindi", "मुझे हिन्दी किताब पसंद है", &["किताब", "हिन्दी", "पसंद"], &["कताब", "कुताब", "हनद"]),
    example("hindi nukta", "फ़िल्म ज़रूर देखो", &["फिल्म", "जरूर", "ज़रूर"], &["फलम"]),
    example("hindi and latin", "APIको बुलाओ", &["api", "बुलाओ"], &["apx"]),
    example("tamil", "தமிழ் மொழி", &["தமிழ்", "மொழி"], &["தமழ", "மழ"]),
    example("bengali", "আমি বাংলায় গান গাই", &["বাংলায়", "গান"], &["বলয", "গন"]),
    // Right to left.
    example("arabic", "مُحَمَّدٌ كَتَبَ رِسَالَةً", &["محمد", "رسالة", "كتب"], &["دمحم"]),
    example("arabic and latin", "الـAPI الجديد", &["api", "الجديد"], &["apx"]),
    example(
        "persian",
        "کتاب می\u{200c}خواهم",
        &["خواهم", "می\u{200c}خواهم", "می خواهم"],
        &["واهم"],
    ),
    example("hebrew", "שָׁלוֹם לעולם בAPI", &["שלום", "לעולם", "api"], &["שלומם"]),
    // Case and accents.
    example(
        "german",
        "Die Straße am Fluß",
        &["strasse", "STRASSE", "STRAẞE", "straße", "fluss"],
        &["strase"],
    ),
    example(
        "greek",
        "Ο ΟΔΥΣΣΕΥΣ βρήκε τον δρόμος",
        &["οδυσσευς", "Οδυσσεύς", "ΔΡΟΜΟΣ", "βρηκε"],
        &["δρακος"],
    ),
    example(
        "turkish",
        "ISPARTA ılık İstanbul",
        &["ısparta", "isparta", "ilik", "ILIK", "istanbul"],
        &["olik"],
    ),
    example("russian", "Ёлка и ещё", &["елка", "ёлка", "ЕЩЕ"], &["юлка"]),
    example("vietnamese", "Tiếng Việt", &["tieng", "việt", "Vie\u{302}\u{323}t"], &["vit"]),
    example("french", "Crème brûlée, œufs ﬁns", &["creme", "BRÛLÉE", "fins"], &["crame"]),
    example("soft hyphen", "Zauber\u{ad}stab", &["zauberstab", "Zauber\u{ad}stab"], &["stab"]),
    example(
        "identifiers",
        "snake_case and camelCase-flag",
        &["snake", "case", "camelcase", "flag"],
        &["camelback"],
    ),
    example("mixed scripts", "SQLзапрос αβγdelta", &["sql", "запрос", "delta", "αβγ"], &["elta"]),
    // Emoji.
    example(
        "emoji",
        "Party 🎉🎉 👍🏿 ❤️ 👩‍💻⏰ 🇩🇪",
        &["🎉", "👍", "👍🏻", "❤", "❤️", "👩‍💻", "💻", "⏰", "🇩🇪", "party 🎉"],
        &["🇪🇩", "👎", "🇩🇰", "🎊"],
    ),
    example("keycap", "Press 1️⃣ now", &["1", "1️⃣"], &["2️⃣"]),
];
